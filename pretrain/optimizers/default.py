"""The optimizer that a config has which names none.

Always: imports nothing, so that everybody can read it.
"""

DEFAULT_OPTIMIZER = "adamw"
