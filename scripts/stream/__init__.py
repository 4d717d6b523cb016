"""Streaming from a store that is far away, slow and fails, as a lab on one machine."""
