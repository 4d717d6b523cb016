"""ZeRO 1 and 2 with hidden communication: DeepSpeed's partitions and step, our exchange of gradients and weights."""
