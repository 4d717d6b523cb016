"""Every private name of tiktoken that tokenizers rely on, one function for each.

In: tiktoken's encodings and their names. Out: what makes them up. Always: these names stand in no other file, and each
has one test in tests/data/test_tiktoken_compat.py.
"""

import inspect
import re

import tiktoken


def merges(encoding: tiktoken.Encoding) -> dict[bytes, int]:
    """``Encoding._mergeable_ranks``: token -> rank."""
    return encoding._mergeable_ranks


def special_tokens(encoding: tiktoken.Encoding) -> dict[str, int]:
    """``Encoding._special_tokens``: name -> id."""
    return encoding._special_tokens


def pattern(encoding: tiktoken.Encoding) -> str:
    """``Encoding._pat_str``: the expression that cuts text into words."""
    return encoding._pat_str


def file_addresses(name: str) -> list[str]:
    """``tiktoken.registry.ENCODING_CONSTRUCTORS``: from where encoding ``name`` fetches its files; empty if unknown."""
    constructors = tiktoken.registry.ENCODING_CONSTRUCTORS or {}
    constructor = constructors.get(name)
    return re.findall(r"\"(https://[^\"]+)\"", inspect.getsource(constructor)) if constructor else []
