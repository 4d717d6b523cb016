"""The optimizers: each declares in one file everything that others ask about it."""
