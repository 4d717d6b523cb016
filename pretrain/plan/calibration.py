"""What was measured of a device, for the planner to use in place of a data sheet and of assumed shares.

In: a file that `make calibrate` wrote. Out: a Cluster. Always: what was not measured there, as links where one process
ran alone, stays the data sheet's; a device that is in no table has the products that were measured as its peak.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from common.errors import InputError
from common.files import read_json, write_json
from common.typed import check_complete, check_section
from pretrain.devices import DEFAULT_DEVICE, DEVICES, Device
from pretrain.plan.cluster import Cluster

ENDING = ".json"
"""of a file's name, where a device's would stand"""


@dataclass(frozen=True)
class Calibration:
    """Rates of one device while all devices of its node work, the slowest of them."""

    device: str
    """as its maker calls it"""
    date: str
    torch: str
    """its version"""
    backend: Literal["nccl", "gloo"]
    memory: float
    """bytes that one process may fill"""
    bf16_products: float
    """FLOP/s of matrix products of a model's shapes"""
    fp32_products: float
    attention: float
    """FLOP/s of a causal attention product, forward and backward, as the planner counts them; in bf16 on a GPU, in fp32
    on a CPU"""
    memory_bandwidth: float
    """bytes/s that pass in a norm"""
    link: float | None = None
    """bytes/s that a rank sends to ranks of its node; None: it was alone"""
    network: float | None = None
    """bytes/s to another node, for each rank; None: there was one node"""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, float | int) and value <= 0:
                raise InputError(f"{name}: must be above 0, is {value}")

    @property
    def known(self) -> Device | None:
        """The device's data sheet, if the table has it."""
        return next((device for name, device in DEVICES.items() if name in self.device), None)

    def cluster(self, gpus_per_node: int) -> Cluster:
        """What the planner plans for; one rate of attention serves both types, as a share of their products."""
        known, sheet = self.known, self.known or DEVICES[DEFAULT_DEVICE]
        peak = known.bf16_flops if known is not None else self.bf16_products
        share = self.bf16_products / peak
        of_attention = self.fp32_products if self.backend == "gloo" else self.bf16_products
        device = Device(
            bf16_flops=peak,
            fp32_flops=self.fp32_products / share,
            memory=self.memory,
            memory_bandwidth=self.memory_bandwidth,
            link=self.link or sheet.link,
            network=self.network or min(sheet.network, self.link or sheet.network),
        )
        return Cluster(
            device,
            self.device,
            gpus_per_node,
            efficiency=share,
            attention_efficiency=share * self.attention / of_attention,
            backend=self.backend,
            measured=f"{self.date}, torch {self.torch}",
        )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the file."""
    write_json(path, asdict(calibration))


def read_calibration(path: Path) -> Calibration:
    """What ``write_calibration`` has written.

    Raises:
        InputError: no such file, or another one.
    """
    where = f"--device {path}"
    values = read_json(path, "calibration; `make calibrate` writes one")
    check_section(Calibration, values, where)
    check_complete(Calibration, values, where)
    try:
        return Calibration(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
