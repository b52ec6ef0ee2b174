"""The mathematics of VAR: weights, log-probabilities, loss and diagnostics. Torch and the standard library, no I/O."""
