"""Loaders of the same tokens by different systems, each a small program that measures itself."""
