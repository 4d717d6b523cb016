"""A slow network on one machine, and what a step of training costs on it."""
