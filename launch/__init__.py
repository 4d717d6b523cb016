"""Starting, watching and requeueing runs. Imports pretrain; nothing imports it."""
