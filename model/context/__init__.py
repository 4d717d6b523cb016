"""Samples longer than a rank holds: their tokens over the ranks of a context group, and attention across them."""
