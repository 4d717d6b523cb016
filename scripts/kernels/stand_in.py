"""A stand-in for Triton's driver of GPUs: what is launched is compiled for sm_90 and written down, and nothing runs.

In: launches, with tensors of the meta device. Out: each one's machine code, listing, shared memory and threads. Always:
types, alignment and constants are what Triton's launcher finds for the tensors, as on a GPU.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

HOPPER = 90
"""compute capability 9.0"""
WARP = 32
UNLIMITED = 1 << 30


class Launch(NamedTuple):
    """A kernel that a GPU would have run."""

    name: str
    machine_code: bytes
    """a cubin"""
    shared_bytes: int
    listing: str
    """in Triton's last representation with layouts (TTGIR)"""
    threads: int
    """of a block"""


class StandIn:
    """Takes the place of the driver for the rest of the process."""

    def __init__(self) -> None:
        from triton import knobs
        from triton.backends.compiler import GPUTarget
        from triton.runtime import driver

        self._launches: list[Launch] = []
        self._listings: dict[str, Path] = {}
        target = GPUTarget("cuda", HOPPER, WARP)
        stand_in = SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            launcher_cls=self._launcher,
            utils=SimpleNamespace(
                load_binary=_load,
                get_device_properties=lambda device: {"max_shared_mem": UNLIMITED},  # too much is for the report to say
            ),
        )
        driver.set_active(stand_in)
        knobs.compilation.listener = self._compiled

    def take(self) -> list[Launch]:
        """What was launched since the last call, in order."""
        taken, self._launches = self._launches, []
        return taken

    def _compiled(self, *, metadata: Mapping[str, Any], metadata_group: Mapping[str, str], **rest: object) -> None:
        """What Triton calls with the files of a kernel, whether compiled now or found in its cache."""
        (listing,) = (Path(path) for name, path in metadata_group.items() if name.endswith(".ttgir"))
        self._listings[metadata["hash"]] = listing

    def _launcher(self, source: object, metadata: Any) -> Any:
        """What Triton calls to put a compiled kernel onto a stream; it hands back what ``_load`` made of it."""

        listing = self._listings[metadata.hash].read_text()
        threads = metadata.num_warps * WARP

        def launch(x: int, y: int, z: int, stream: int, loaded: tuple[str, bytes, int], *rest: object) -> None:
            self._launches.append(Launch(*loaded, listing, threads))

        return launch


def _load(name: str, machine_code: bytes, shared_bytes: int, device: int) -> tuple[Any, ...]:
    """Module, function, registers, spills and most threads, as Triton asks for; the report reads the code itself."""
    return None, (name, machine_code, shared_bytes), 0, 0, UNLIMITED
