"""The numbers in docs/mathematics.md are those of the code."""

import re
from pathlib import Path

import pytest
import yaml

from model.config import ModelConfig
from model.counts import attention_parameters, parameter_counts
from tests.conftest import ROOT

TEXT = (ROOT / "docs/mathematics.md").read_text()
LABELS = dict(re.findall(r"\| `(configs/\S+)` \| \S+ B \| (\S+)B? \|", TEXT.replace("830M", "0.83B")))


def model_of(config: str, **changes: str) -> ModelConfig:
    return ModelConfig(**yaml.safe_load((ROOT / config).read_text())["model"] | changes)


def size(model: ModelConfig) -> float:
    return sum(parameter_counts(model).values()) / 1e9


def query_and_key(model: ModelConfig) -> int:
    return sum(count for part, count in attention_parameters(model).items() if part.startswith("query and key"))


def test_every_size_of_the_paper_has_its_row() -> None:
    configs = {path.name for path in (ROOT / "configs").glob("shared_diff_*.yaml")}
    assert {Path(name).name for name in LABELS} == configs - {"shared_diff_3b_64k.yaml"}  # a stage of 3B


@pytest.mark.parametrize("config", LABELS)
def test_a_printed_size_is_that_of_the_config(config: str) -> None:
    assert f"| `{config}` | {size(model_of(config)):.2f} B |" in TEXT


@pytest.mark.parametrize("base", ["layer", "head"])
@pytest.mark.parametrize("down", ["layer", "head"])
def test_a_reading_has_the_printed_share_of_diffs_queries_and_keys(base: str, down: str) -> None:
    shares, errors = [], []
    for config, label in LABELS.items():
        model = model_of(config, base=base, down=down)
        shares.append(query_and_key(model) / query_and_key(model_of(config, attention="diff")))
        errors.append(abs(size(model) / float(label.removesuffix("B")) - 1))
    span = f"{min(shares):.0%} to {max(shares):.0%}".replace("%", " %")
    error = f"{sum(errors) / len(errors):.0%}".replace("%", " %")
    assert f"| `{base}` | `{down}` | {span} | {error} |" in TEXT


def test_lambda_begins_where_it_is_said_to() -> None:
    values = ", ".join(f"{ModelConfig().lambda_init_of(layer):.2f}" for layer in range(4))
    assert f"{values} in the first four layers" in " ".join(TEXT.split())
    assert ModelConfig().lambda_init_of(60) == pytest.approx(0.8, abs=1e-6)
