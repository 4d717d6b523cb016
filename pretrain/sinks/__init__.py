"""Where metrics go: console, metrics.jsonl, loss.png, Weights & Biases, TensorBoard. Rank 0 only; none stops a run."""
