"""What a kernel's machine code says: registers, spills, matrix instructions.

In: a cubin, and the tools that Triton's wheel brings. Out: ``MachineCode``. Always: facts of the code; no time.
"""

import functools
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError


@dataclass(frozen=True)
class MachineCode:
    """Of one kernel."""

    registers: int
    """of a thread"""
    stack_bytes: int
    local_bytes: int
    """memory of a thread in place of registers"""
    local_accesses: int
    """instructions that read or write it: LDL, STL"""
    hgmma: int
    """Hopper's matrix instructions, of a group of four warps"""
    hmma: int
    """those of one warp, older and slower"""

    @property
    def spills(self) -> int:
        """0, unless a thread has more than its registers hold: bytes, or instructions where no bytes are named."""
        return max(self.stack_bytes + self.local_bytes, self.local_accesses)


@functools.cache
def inspect(code: bytes) -> MachineCode:
    """Of a cubin with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(code)
        return parse(_dump("--dump-resource-usage", file.name), _dump("--dump-sass", file.name))


def parse(usage: str, instructions: str) -> MachineCode:
    """From what cuobjdump prints.

    Raises:
        InputError: the text is not of one kernel.
    """
    lines = re.findall(r"^\s*(REG:.*)$", usage, flags=re.MULTILINE)
    if len(lines) != 1:
        raise InputError(f"cuobjdump --dump-resource-usage: {len(lines)} lines with REG: where one kernel has one")
    numbers = {name: int(number) for name, number in re.findall(r"([A-Z]+)(?:\[\d+\])?:(\d+)", lines[0])}
    names = re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?\S+\s+)?([A-Z0-9]+)", instructions, flags=re.MULTILINE)
    if not names:
        raise InputError("cuobjdump --dump-sass: no instruction found")
    return MachineCode(
        registers=numbers["REG"],
        stack_bytes=numbers["STACK"],
        local_bytes=numbers["LOCAL"],
        local_accesses=names.count("LDL") + names.count("STL"),
        hgmma=names.count("HGMMA"),
        hmma=names.count("HMMA"),
    )


def _dump(flag: str, path: str) -> str:
    from triton import knobs

    command = [knobs.nvidia.cuobjdump.path, flag, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
