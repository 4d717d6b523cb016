"""Preflight's checks: small functions that look at one thing and return Findings.

`plan.py` needs one process; the others are asked on every connected rank, and answer alike on each.
"""
