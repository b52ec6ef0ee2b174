"""What is told of a data set: what is in it, what could mislead a training."""
