"""A site's further options: each entry is one option of sbatch's, and none that the script sets itself."""

import pytest

from common.errors import InputError
from launch.slurm.options import option_line


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("--exclusive", "--exclusive"),
        ("--exclusive=user", "--exclusive=user"),
        ("--comment=two words", "--comment='two words'"),
        ("--comment='two words'", "--comment='two words'"),
        ('--comment="it is 5 o\'clock"', "--comment='it is 5 o'\"'\"'clock'"),
        ("--comment=it's", "--comment='it'\"'\"'s'"),
        ("--comment=x # y", "--comment='x # y'"),
        ("--reservation big", "--reservation=big"),
        ("  --reservation   big ", "--reservation=big"),
        ("-C a100|h100", "-C 'a100|h100'"),
        ('-C "a100 | h100"', "-C 'a100 | h100'"),
        ("-w node1", "-w node1"),
        ("--comment=a\\b", "--comment='a\\\\b'"),
        ("--dependency=after:12+5,afterok:13", "--dependency=after:12+5,afterok:13"),
    ],
)
def test_an_entry_is_one_option_whatever_its_value_holds(entry: str, line: str) -> None:
    assert option_line(entry) == line


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("exclusive", "not 'exclusive'"),
        ("", "not ''"),
        ("--", "not '--'"),
        ("--exclusive --mem=0", "reads as two options"),
        ("--mem=0 --exclusive", "reads as two options"),
        ("-x node1 -C a100", "reads as two options"),
        ("--comment=a\n#SBATCH --nodes=9", "has the character '\\n'"),
        ("--array=1-3", "would all train in one run folder"),
        ("--ntasks=8", "each node has one task"),
        ("-n8", "each node has one task"),
        ("--cpus-per-task=8", "is set by site.cpus_per_task"),
        ("-p main", "is set by site.partition"),
        ("--export=ALL", "is set by site.pass_environment"),
        ("--ntasks-per-gpu=1", "each node has one task"),
        ("-V", "it submits nothing"),
        ("--no-requeue", "the script requeues itself"),
    ],
)
def test_what_is_none_is_refused(entry: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        option_line(entry)
    assert said in str(error.value)
