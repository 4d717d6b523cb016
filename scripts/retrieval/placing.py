"""A training config whose corpora lie where the user wants them.

In: a config that names them as FOLDER/NAME/train, another folder. Out: the same config with that folder, as a file.
Always: nothing else of the config changes.
"""

from dataclasses import replace
from pathlib import Path

from common.cli import parse_config, to_yaml
from common.files import atomic_file
from data.config import SourceConfig
from pretrain.config import RunConfig


def corpus_names(config: RunConfig) -> list[str]:
    """Of the training text, one stage after the other."""
    mixtures = [config.data.train, *(stage.train or [] for stage in config.data.stages)]
    return [Path(source.path).parent.name for mixture in mixtures for source in mixture]


def placed(training: str, corpora: Path, copy: Path) -> RunConfig:
    """The config ``training`` with its text in ``corpora``, also written to ``copy``."""
    config = parse_config(RunConfig, ["--config", training], "python scripts/train_retrieval.py")
    data, validation = config.data, config.data.validation
    data = replace(
        data,
        train=[_moved(source, corpora) for source in data.train],
        validation=None if validation is None else _below(validation, corpora),
        stages=[
            stage if stage.train is None else replace(stage, train=[_moved(source, corpora) for source in stage.train])
            for stage in data.stages
        ],
    )
    config = replace(config, data=data)
    with atomic_file(copy) as file:
        file.write(to_yaml(config).encode())
    return config


def _moved(source: SourceConfig, corpora: Path) -> SourceConfig:
    return replace(source, path=_below(source.path, corpora))


def _below(path: str, corpora: Path) -> str:
    return str(corpora.joinpath(*Path(path).parts[-2:]))
