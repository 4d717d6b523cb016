"""What defines the training data: which token shards, in which proportions, cut into which samples.

In: the `data` section of a config file. Out: a checked, frozen DataConfig.
Always: nothing here depends on the number of processes.
"""

from dataclasses import dataclass, field

from common.errors import InputError


@dataclass(frozen=True)
class SourceConfig:
    """One folder of token shards and its share of the mixture."""

    path: str
    """folder with manifest.json, as `python -m data prepare` writes it"""
    weight: float = 1.0
    """share of the samples, relative to the other sources' weights"""


@dataclass(frozen=True)
class DataConfig:
    """Training and held-out tokens."""

    train: list[SourceConfig] = field(default_factory=list)
    """the mixture: folders of token shards and their weights, as [{path: DIR, weight: 1.0}, ...]"""
    validation: str | None = None
    """folder of held-out token shards; none: no evaluation"""
    sequence_length: int = 256
    """tokens of one sample, T"""
    document_attention: bool = False
    """attention stops at document ends and positions restart there"""

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise InputError(f"data.sequence_length: must be at least 2, is {self.sequence_length}")
        for source in self.train:
            if not source.weight > 0:
                raise InputError(f"data.train: the weight of {source.path} must be positive, is {source.weight}")
