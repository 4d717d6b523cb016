"""The evaluations: the papers' own tasks, lm-evaluation-harness, and what they share.

Any causal model that transformers loads goes through all of them; every result has a confidence interval, counts and
the seed that it was drawn with.
"""
