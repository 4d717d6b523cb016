"""Which form of attention is the fastest where, as far as it has been measured.

In: a Case. Out: a row of the table, or None where nothing like it has been measured. Always: a row names the date and
the machine of its measurement; nothing is put here by reasoning.
"""

from dataclasses import dataclass
from fnmatch import fnmatch

import torch

from model.kernels.forms.base import PLAIN, SHARED_KEYS, TWO_STREAMS, Case, Maps


@dataclass(frozen=True)
class Row:
    """Where a form is the fastest: the first row that fits a case counts."""

    device: str
    """pattern of ``Machine.name``"""
    dtypes: tuple[torch.dtype, ...]
    maps: tuple[Maps, ...]
    head_dims: tuple[int, int]
    """from, to; both included"""
    lengths: tuple[int, int]
    """the same"""
    form: str
    measured: str
    """when, and on what"""
    documents: bool | None = None
    """whether attention stays inside documents; None: it does not matter"""

    def fits(self, case: Case) -> bool:
        """Whether it says anything about ``case``."""
        return (
            fnmatch(case.machine.name, self.device)
            and case.dtype in self.dtypes
            and case.maps in self.maps
            and self.head_dims[0] <= case.head_dim <= self.head_dims[1]
            and self.lengths[0] <= case.length <= self.lengths[1]
            and self.documents in (None, case.documents)
        )


ZEN4 = "2026-11-27, CPU time of one thread of an AMD EPYC (Zen 4), torch 2.13, beside other work"
BOTH_TYPES = (torch.float32, torch.bfloat16)
WIDTHS, LENGTHS = (32, 128), (128, 4096)
AVX512 = "CPU with AVX512"
ROWS: tuple[Row, ...] = (
    Row(AVX512, BOTH_TYPES, (TWO_STREAMS, SHARED_KEYS, PLAIN), WIDTHS, (512, 4096), "explicit", ZEN4, documents=True),
    Row(AVX512, BOTH_TYPES, (TWO_STREAMS,), WIDTHS, LENGTHS, "explicit", ZEN4),
    Row(AVX512, (torch.float32,), (SHARED_KEYS,), WIDTHS, (512, 512), "explicit", ZEN4),
    Row(AVX512, (torch.bfloat16,), (SHARED_KEYS,), WIDTHS, (128, 1024), "explicit", ZEN4),
    Row(AVX512, BOTH_TYPES, (SHARED_KEYS, PLAIN), WIDTHS, LENGTHS, "sdpa", ZEN4),
)


def measured(case: Case) -> Row | None:
    """The row that says what is the fastest in ``case``."""
    return next((row for row in ROWS if row.fits(case)), None)
