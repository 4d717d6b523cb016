"""What the makers' data sheets say of the devices that runs are planned for and measured against.

In: a device's name, or the device that is here. Out: its speeds, without sparsity, and what programs make of them.
Always: whoever uses one states it. The three shares were chosen together on what others have measured on H100s
(scripts/published_runs.py); none is of this project's own runs.
"""

from dataclasses import dataclass

from common.errors import InputError, nearest


@dataclass(frozen=True)
class Device:
    """One GPU and its place in a usual node."""

    bf16_flops: float
    """dense bf16 matrix products, FLOP/s"""
    fp32_flops: float
    """fp32 without tensor cores, FLOP/s"""
    memory: float
    """bytes that CUDA offers"""
    memory_bandwidth: float
    """bytes/s"""
    link: float
    """bytes/s to another GPU of the node, one direction"""
    network: float
    """bytes/s to another node, one network card for each GPU"""


GIB = 2**30
DEVICES = {
    "H100": Device(989e12, 67e12, 79 * GIB, 3.35e12, 450e9, 50e9),
    "H200": Device(989e12, 67e12, 140 * GIB, 4.8e12, 450e9, 50e9),
    "B200": Device(2250e12, 80e12, 178 * GIB, 8.0e12, 900e9, 50e9),
    "A100": Device(312e12, 19.5e12, 79 * GIB, 2.0e12, 300e9, 25e9),
    "L40S": Device(362e12, 91.6e12, 44 * GIB, 0.86e12, 32e9, 25e9),
    "4090": Device(165e12, 82.6e12, 23.5 * GIB, 1.0e12, 32e9, 12.5e9),
}
DEFAULT_DEVICE = "H100"
"""what is planned for where no device is named"""
GPUS_PER_NODE = 8
EFFICIENCY = 0.6
"""share of the peak that matrix products reach"""
ATTENTION_EFFICIENCY = 0.3
"""the same for the attention product, whose causal half counts"""
TRAFFIC = 4.0
"""bytes that pass the memory between the products of a forward pass, for each byte kept for the backward pass"""


def device_by_name(name: str) -> Device:
    """The device that the user has named.

    Raises:
        InputError: a device that is not in the table.
    """
    if name not in DEVICES:
        raise InputError(f"--device {name}: not in the table{nearest(name, DEVICES)}; there are {', '.join(DEVICES)}")
    return DEVICES[name]


def device_peak_flops() -> float | None:
    """The device's dense bf16 peak, or None where it is not known, as on a CPU."""
    import torch  # the table alone is wanted without it

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((device.bf16_flops for key, device in DEVICES.items() if key in name), None)
