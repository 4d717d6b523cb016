"""The kinds of attention: each is one file that declares everything about itself.

In: a ModelConfig. Out: `registry.kind_of(config)`, whom everybody else asks. Always: no other room names a kind;
docs/extending.md tells how to add one.
"""
