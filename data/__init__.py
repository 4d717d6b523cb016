"""From raw text to the batches of a run, in the order in which data flows.

corpus -> tokenizer, small_bpe -> parts -> assemble (all led by prepare; workers, progress)   text to shards, once
manifest, shards, storage, remote, cache, source                                              shards, checked when read
permute, mixture, shuffle, order, skip                                                        which sample comes when
stream -> batch                                                                               what the trainer asks
adopt, plan, verify, trace, search, run_order                                                 the other commands

Imports nothing of model/, pretrain/ or launch/. Always: what a run sees is a pure function of its config and seed.
"""
