"""The kernel report: what it reads from tools, what it complains about, and that docs/kernels.* are of this code."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.cli import run_command
from common.errors import InputError
from scripts.kernel_report import KERNELS, PAGE, ROWS, main
from scripts.kernels.configurations import configurations
from scripts.kernels.counted import COUNTED_TOKENS, report
from scripts.kernels.machine_code import MachineCode, parse
from scripts.kernels.page import fingerprint_of, page
from scripts.kernels.products import repetition
from scripts.kernels.rows import Row, complaints, read_rows, write_rows
from tests.conftest import ROOT

TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
USAGE = """
Fatbin elf code:
================
arch = sm_90a
code version = [1,8]
host = linux
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function keys_kernel:
  REG:168 STACK:24 SHARED:0 LOCAL:16 CONSTANT[0]:564 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
INSTRUCTIONS = """
        Function : keys_kernel
        .headerflags    @"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                                  /* 0x00000a00ff017b82 */
                                                                                           /* 0x000fe20000000800 */
        /*0010*/              @!P0 STL.64 [R1+0x8], R24 ;                                  /* 0x0000081801007387 */
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], !UPT ;        /* 0x01e00000041879f0 */
        /*0030*/                   HGMMA.64x64x16.F32.BF16 R88, R4, gdesc[UR8], R88 ;      /* 0x00e0000008587df0 */
        /*0040*/             @!UP0 LDL.LU.64 R24, [R1+0x8] ;                               /* 0x0000080001187983 */
        /*0050*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;                   /* 0x0000000c0804723c */
        /*0060*/               @P1 LDL R3, [R1] ;                                          /* 0x0000000001037983 */
        /*0070*/                   EXIT ;                                                  /* 0x000000000000794d */
"""
ROW = Row(
    name="keys_kernel",
    direction="backward",
    widths=(64, 128),
    key_streams=2,
    documents=True,
    dtype="bf16",
    threads=256,
    registers=168,
    spills=0,
    shared_bytes=196_608,
    hgmma=36,
    hmma=0,
    repetition=1.0,
    operations=5_000,
    exponentials=30,
    bytes=700,
)


def test_the_tools_output_is_read() -> None:
    expected = MachineCode(registers=168, stack_bytes=24, local_bytes=16, local_accesses=3, hgmma=2, hmma=1)
    assert parse(USAGE, INSTRUCTIONS) == expected
    assert expected.spills == 40


def test_accesses_without_bytes_are_spills_too() -> None:
    assert parse(USAGE.replace("STACK:24", "STACK:0").replace("LOCAL:16", "LOCAL:0"), INSTRUCTIONS).spills == 3


@pytest.mark.parametrize(
    ("usage", "instructions", "message"),
    [
        ("", INSTRUCTIONS, "0 lines with REG:"),
        (2 * USAGE, INSTRUCTIONS, "2 lines with REG:"),
        (USAGE, "Fatbin elf code:", "no instruction found"),
    ],
)
def test_other_output_is_refused(usage: str, instructions: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(usage, instructions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spills": 8}, "8 bytes or instructions of spills"),
        ({"shared_bytes": 232_449}, "232,449 bytes of shared memory, 232,448 are there"),
        ({"hmma": 16}, "16 HMMA, a warp's own matrix instructions"),
        ({"repetition": 2.0}, "products are computed 2.00 times"),
        ({"hgmma": 0}, "no HGMMA, though it multiplies matrices"),
        ({"threads": 512}, "168 registers in 512 threads, 65,536 are there"),
    ],
)
def test_a_row_that_breaks_a_limit_has_a_line(change: dict[str, int], words: str) -> None:
    bad = dataclasses.replace(ROW, **change)
    where = "keys_kernel, backward, K 64, E 128, two keys, bf16, documents"
    assert complaints([ROW, bad]) == [f"{where}: {words}"]


def test_what_multiplies_no_matrices_needs_no_matrix_instructions() -> None:
    assert complaints([dataclasses.replace(ROW, hgmma=0, operations=0)]) == []


def test_rows_are_written_one_on_a_line_and_read_back(tmp_path: Path) -> None:
    rows = [ROW, dataclasses.replace(ROW, widths=(96, 192), documents=False)]
    write_rows(rows, tmp_path / "rows.json")
    assert read_rows(tmp_path / "rows.json") == rows
    assert [line[0] for line in (tmp_path / "rows.json").read_text().splitlines()] == ["[", "{", "{", "]"]


def test_the_fingerprint_is_of_the_code_and_not_of_its_words(tmp_path: Path) -> None:
    prints, kernel = [], tmp_path / "kernel.py"
    for text in ('"""Doubles."""\nx = 2  # twice\n', '"""Twice."""\n\nx = 2\n', '"""Twice."""\nx = 3\n'):
        kernel.write_text(text)
        prints.append(fingerprint_of([kernel]))
    assert prints[0] == prints[1] != prints[2]


LISTING = """
#mma = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 32, 16]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 2], instrShape = [16, 64, 16]}>
  %p = ttng.warp_group_dot %q, %k, %zero {isAsync = true} : !ttg.memdesc<ROWSx96xbf16, #shared, #smem, mutable> * \
!ttg.memdesc<96x32xbf16, #shared1, #smem> -> tensor<ROWSx32xf32, #mma>
  %w:2 = ttng.warp_group_dot_wait %p, %k {pendings = 0 : i32} : tensor<ROWSx32xf32, #mma>, !ttg.memdesc<96x32xbf16>
  %d = ttng.warp_group_dot %p1, %x, %d0 : tensor<64x32xbf16, #ttg.dot_op<{opIdx = 0, parent = #mma1, kWidth = 2}>> * \
!ttg.memdesc<32xWIDExbf16, #shared, #smem> -> tensor<64xWIDExf32, #mma1>
"""


@pytest.mark.parametrize(
    ("rows", "wide", "expected"),
    [
        (128, 128, 1.0),
        (64, 128, (2 * 64 * 32 * 96 + 64 * 128 * 32) / (64 * 32 * 96 + 64 * 128 * 32)),  # 8 warps are 128 rows
        (128, 64, (128 * 32 * 96 + 64 * 128 * 32) / (128 * 32 * 96 + 64 * 64 * 32)),  # 2 times 64 columns
    ],
)
def test_products_that_two_groups_of_warps_compute_are_found(rows: int, wide: int, expected: float) -> None:
    assert repetition(LISTING.replace("ROWS", str(rows)).replace("WIDE", str(wide))) == expected


def test_a_kernel_without_products_repeats_none() -> None:
    assert repetition("%sum = tt.reduce") == 0


COMPILE = """
import json, sys
from scripts.kernels.machine_code import inspect
from scripts.kernels.products import repetition
from scripts.kernels.stand_in import StandIn
from tests.scripts.kernel_example import launch
stand_in, seen = StandIn(), []
for columns, tile, warps in ((128, 64, 4), (128, 64, 4), (130, 64, 8), (128, 32, 1)):
    launch(columns, tile, warps)
    for kernel in stand_in.take():
        code = inspect(kernel.machine_code)
        found = code.registers, code.spills, repetition(kernel.listing), code.hgmma, code.hmma
        seen.append([kernel.name, kernel.threads, kernel.shared_bytes, *found])
print(json.dumps(seen))
"""


@TRITON
def test_a_kernel_is_compiled_as_it_is_launched(tmp_path: Path) -> None:
    """Again with equal arguments: the kernel is there already, and counts as launched."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=500)
    four, again, eight, one = json.loads(done.stdout)
    assert four == again
    assert [launched[:2] for launched in (four, eight, one)] == [["multiply_twice", 32 * warps] for warps in (4, 8, 1)]
    assert all(launched[3] > 0 and launched[4] == 0 for launched in (four, eight, one)), "registers, and no spills"
    assert four[6] > 0 == four[7], "a tile of 64 rows and four warps is for Hopper's matrix instructions"
    assert one[6] == 0 < one[7], "one warp has its own matrix instructions only"
    assert (four[5], eight[5]) == (1.0, 1.5), "of eight warps four repeat the product that feeds the other one"


def test_the_report_is_of_every_configuration_and_of_this_code() -> None:
    """Otherwise: `make kernel-report`."""
    rows = read_rows(ROWS)
    covered = {(row.direction, row.widths[0], row.key_streams, row.documents, row.dtype) for row in rows}
    assert covered == {tuple(configuration) for configuration in configurations()}
    assert PAGE.read_text() == page(rows, report(), COUNTED_TOKENS, fingerprint_of(KERNELS))


def test_no_configuration_breaks_a_limit() -> None:
    rows = read_rows(ROWS)
    assert complaints(rows) == []


def test_counts_are_printed_without_triton(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--counts"]) == 0
    assert capsys.readouterr().out.splitlines() == report()


def test_a_wrong_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["--processes", "0"]) == 2
    assert capsys.readouterr().err == "error: --processes: must be at least 1, is 0\n"
