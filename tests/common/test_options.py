"""One spelling of options: hyphens, and keys for what lies inside a section; underscores are read as hyphens."""

import pytest

from common.options import as_keys, hyphenated, option, spelled

TYPED = ["--run_dir", "a_b", "--world-size=3", "--data.sequence_length", "9", "--deepspeed.a-b=c_d", "--", "--x_y"]


def test_a_setting_has_an_option_with_hyphens_and_one_in_a_section_its_key() -> None:
    assert option("global_batch_size") == "--global-batch-size"
    assert option("data.sequence_length") == "--data.sequence_length"


def test_only_the_names_of_options_change() -> None:
    kept = ["--data.sequence_length", "9", "--deepspeed.a-b=c_d", "--", "--x_y"]
    assert hyphenated(TYPED) == ["--run-dir", "a_b", "--world-size=3", *kept]
    assert as_keys(TYPED) == ["--run_dir", "a_b", "--world_size=3", *kept]


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ("usage: x [--run_dir RUN_DIR]", "usage: x [--run-dir RUN_DIR]"),
        ("--held_out CONFIG, --held_out.samples N", "--held-out CONFIG, --held_out.samples N"),
        ("see --eod_token.", "see --eod-token."),
        ("a__b --x a_b", "a__b --x a_b"),
    ],
)
def test_a_page_of_help_is_spelled_without_moving_its_columns(made: str, shown: str) -> None:
    assert spelled(made) == shown
    assert len(shown) == len(made)
