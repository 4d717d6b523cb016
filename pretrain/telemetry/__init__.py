"""Numbers from inside the model and the optimizer, on the steps that ask for them (docs/telemetry.md)."""
