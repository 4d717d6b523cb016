"""The wall around DeepSpeed: no other room imports it.

In: a RunConfig, a Topology, the list of layers. Out: an Engine, who trains and evaluates, and who lends the checkpoints
its training state. Always: private names of DeepSpeed stand in compat.py alone.
"""
