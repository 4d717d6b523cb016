"""What a file holds, by its name: the kinds that are read as text, and their compressions.

In: a file's name. Out: its kind, or None. Always: what is not on the list is not taken for text.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Compression = Literal["", "gz", "bz2", "xz", "zst"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ROWS: dict[str, Kind] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
}
TEXTS = _words("txt text md markdown rst tex")
SOURCES = _words(
    """
    ada adb ads asm awk bash bat bib c cc cfg cjs clj cljs cljc cmake cob coffee cpp cs css cu cuh cxx d dart el
    elm erl ex exs f f03 f08 f77 f90 f95 fish for fs fsx gd glsl go gql gradle graphql groovy h hcl hh hpp hrl hs
    htm html hxx ini ipp java jl js jsx kt kts less lisp lua m mjs mk ml mli mm nim nix pas php pl pm proto ps1
    pxd py pyi pyx r rb rkt rs s sass scala scm scss sh sol sql sv svelte swift tcl tf thrift toml ts tsx v vb vhd
    vhdl vim vue wgsl xml yaml yml zig zsh
    """
)
WHOLE_NAMES = _words(
    """
    authors changelog changes cmakelists.txt contributing copying dockerfile license licence makefile news notice
    readme
    """
)
"""names of text files that have no suffix"""
COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "bz2": "bz2", "xz": "xz", "zst": "zst", "zstd": "zst"}
ACCEPTED = (
    "jsonl, ndjson, json, csv, tsv, parquet, arrow, folders of datasets' save_to_disk, txt, md and the like, source "
    "code; packed as gz, bz2, xz or zst"
)
"""the list for people"""


@dataclass(frozen=True)
class FileKind:
    """How a file is read."""

    kind: Kind
    compression: Compression


def kind_of(file: str) -> FileKind | None:
    """The kind of the file or URL ``file``; None: not one of those that are read."""
    name = PurePosixPath(file.partition("?")[0] if "://" in file else file).name.lower()
    packed = COMPRESSIONS.get(_suffix(name), "")
    if packed:
        name = name.rpartition(".")[0]
    suffix = _suffix(name)
    if suffix in ROWS:
        return FileKind(ROWS[suffix], packed)
    if suffix in TEXTS or suffix in SOURCES or name in WHOLE_NAMES:
        return FileKind("text", packed)
    return None


def _suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return suffix if stem else ""
