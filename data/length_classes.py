"""Sources whose documents are sorted into classes of lengths, and how often each class comes up.

In: `data.train[].length_power` and the folder that `python -m data lengths` wrote. Out: an ordinary source for each
class, with its weight. Always: a source's weight is divided among its classes, so that sources keep their shares of
the mixture; a class is a source like any other, and as exact, traceable and frugal.

A class of n tokens in documents of m tokens on average gets a share of the samples in proportion to n * m^power. With
power 0 that is the corpus as it is; with 1 the number of times that a document is seen grows with the length of the
documents of its class: documents in proportion to their length.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from common.errors import InputError, named
from common.remote_files import file_in
from data.class_listing import CLASSES_FILE, parse_listing
from data.config import CacheConfig, DataConfig, SourceConfig
from data.manifest import Manifest
from data.source import open_source, small_file


def with_classes(config: DataConfig) -> DataConfig:
    """``config`` with a source for each class in place of every source that has a ``length_power``.

    Raises:
        InputError: no classes there, or none that is readable.
    """

    def whole(mixture: list[SourceConfig]) -> list[SourceConfig]:
        return [part for source in mixture for part in _parts(source, config.cache)]

    with named("data.train"):
        stages = [dataclasses.replace(stage, train=whole(stage.train or []) or None) for stage in config.stages]
        return dataclasses.replace(config, train=whole(config.train), stages=stages)


def class_paths(path: str, cache: CacheConfig) -> list[str]:
    """The folders or URLs of the classes in ``path``, the shortest first.

    Raises:
        InputError: there are none.
    """
    try:
        content = small_file(path, CLASSES_FILE, cache)
    except InputError as error:
        raise InputError(
            f"length_power: {path} is not sorted by length; python -m data lengths does that ({error})"
        ) from None
    return [file_in(path, name) for name in parse_listing(content, f"{path}/{CLASSES_FILE}")["folders"]]


def shares(manifests: Sequence[Manifest], power: float) -> list[float]:
    """The share of the samples that each class gets."""
    parts = [entry.tokens * (entry.tokens / max(1, entry.documents)) ** power for entry in manifests]
    return [part / sum(parts) for part in parts]


def _parts(source: SourceConfig, cache: CacheConfig) -> Iterator[SourceConfig]:
    if source.length_power is None:
        yield source
        return
    paths = class_paths(source.path, cache)
    weights = shares([open_source(path, cache).manifest for path in paths], source.length_power)
    for path, weight in zip(paths, weights, strict=True):
        yield SourceConfig(path, source.weight * weight, license=source.license)
