"""Defaults of a run's settings that rooms need which may not know each other.

In: nothing. Out: numbers. Always: `python -m data plan` and the training read them here, so that both mean the same run
where its config says nothing.
"""

SEED = 1234
STEPS = 100
"""optimizer steps"""
VOCABULARY = 8192
"""entries of the embedding, and of a tokenizer that is trained here"""
