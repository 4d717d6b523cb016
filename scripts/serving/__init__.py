"""Exports under a server of others."""
