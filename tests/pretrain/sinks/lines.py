"""Lines of metrics as sinks get them."""

TRAINING = {
    "time": "2026-11-28T00:52:44+00:00",
    "step": 10,
    "tokens": 1000,
    "loss": 2.5,
    "mean_loss": 2.75,
    "learning_rate": 1e-3,
    "grad_norm": 1.0,
    "applied": True,
    "tokens_per_second": 100.0,
    "step_seconds": 2.0,
    "model_flops_utilization": None,
}
VALIDATION = {
    "time": "2026-11-28T00:52:45+00:00",
    "step": 10,
    "validation_loss": 2.4,
    "validation_bits_per_byte": 1.0,
    "validation_perplexity": 11.0,
}
