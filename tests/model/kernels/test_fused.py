"""The fused operator: everything that runs its kernels does so in a process of its own.

Triton decides when it is imported whether it interprets, and others import it, too; so the tests in fused/ are
collected only where TRITON_INTERPRET is set, which this file sets for them.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

INSIDE = Path(__file__).parent / "fused"
WITHOUT_TRITON = """
import sys, torch
from common.errors import InputError
from model.kernels.fused.operator import fused_attention
assert "triton" not in sys.modules
q, v, weight = torch.ones(5, 1, 1, 2, 32), torch.ones(5, 1, 1, 64), torch.ones(5, 1, 1)
try:
    fused_attention(q, q, v, weight)
except InputError as error:
    print(error)
"""


def test_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", INSIDE, "-rf", "--color=no"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_triton_is_imported_when_a_kernel_is_wanted_and_other_places_are_refused() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (
        0,
        "fused differential attention runs on NVIDIA GPUs, not on cpu; choose another form\n",
    ), said.stderr
