"""The previewing process: the weights of a whole grid of settings from kept scores."""
