"""The engine that a topology asks for.

In: a RunConfig, a Topology, the list of layers, and a judge who may refuse a step. Out: an Engine.
"""

from collections.abc import Sequence

from model.layers import LayerDefinition
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine, Judge
from pretrain.engines.pipelined import PipelinedEngine
from pretrain.engines.sequential import SequentialEngine
from pretrain.topology import Topology


def build_engine(config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], judge: Judge) -> Engine:
    """As the topology has one pipeline stage or several."""
    kind = PipelinedEngine if topology.pipeline_size > 1 else SequentialEngine
    return kind(config, topology, layers, judge)
