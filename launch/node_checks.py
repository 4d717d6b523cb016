"""Preflight on the allocated nodes: asked by every rank once it is connected, before the model is built.

In: a RunConfig and a connected Topology. Out: one line per finding on rank 0; an InputError, equal on every rank, for
what must not be trained on. What is only slow is named and trained on.
"""

from pretrain.config import RunConfig
from pretrain.topology import Topology


def check_nodes(config: RunConfig, topology: Topology) -> None:
    """A collective call of all ranks."""
    from launch.checks.clock import check_clock  # torch: seconds to import
    from launch.checks.cores import check_cores
    from launch.checks.devices import check_devices
    from launch.checks.finding import refuse_errors
    from launch.checks.network import check_network
    from launch.checks.ranks import gather_ranks
    from launch.checks.software import check_software
    from launch.checks.storage import check_storage

    ranks = gather_ranks(topology)
    findings = [
        check_software(ranks),
        check_clock(ranks),
        check_cores(ranks),
        *check_devices(ranks),
        *check_network(ranks),
        *check_storage(config, ranks),
    ]
    if topology.is_main:
        for finding in findings:
            print(finding, flush=True)
    refuse_errors(findings)
