"""The kind of attention that a config has which names none.

Always: imports nothing, so that model/config.py, which every kind imports, can read it.
"""

DEFAULT_KIND = "shared_diff"
