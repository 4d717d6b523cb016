"""Layers split over a tensor-parallel group, on megatron-core's parallel layers and mappings.

In: a process group. Out: the modules and operations of ``Sharding`` for this rank. Always: a column-parallel layer
communicates nothing itself, ``columns`` does it once for all layers that read the same input; a row-parallel layer sums
(or under sequence parallelism sums and scatters) its output.

megatron-core takes the group explicitly. Building layers works on the meta device with a fake process group.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.exchange import ReplicatedInput, SequenceSplitInput
from model.leaving import SequenceSplitOutput
from model.megatron_compat import ModelParallelConfig, let_megatron_run_on_cpu, mappings, tensor_parallel
from model.packed import linear
from model.parallel import ParameterInfo, Product, Sharding, describe
from model.unpacked import SplitInput, linear_of_split_input


class TensorParallel(Sharding):
    """Splits heads, feed-forward features and the vocabulary over ``group``.

    Args:
        group: the tensor-parallel process group of this rank.
        sequence_parallel: split the activations between the layers along the sequence; without effect in a group of 1.
        packs: as in ``Sharding``.
        row_pieces: in which the output of a row-parallel layer leaves under sequence parallelism.
    """

    def __init__(
        self, group: dist.ProcessGroup, sequence_parallel: bool = False, packs: bool = True, row_pieces: int = 1
    ) -> None:
        self.group = group
        self.row_pieces = row_pieces
        self.packs = packs
        self.size = group.size()
        self.rank = group.rank()
        self.sequence_parallel = sequence_parallel and self.size > 1
        self.exchange = SequenceSplitInput(group) if self.sequence_parallel else ReplicatedInput(group)
        let_megatron_run_on_cpu()

    def column_linear(self, in_features: int, out_features: int) -> nn.Module:
        return _ColumnLinear(in_features, out_features, self)

    def row_linear(self, in_features: int, out_features: int, product: Product = linear) -> nn.Module:
        return _RowLinear(in_features, out_features, product, self)

    def vocab_embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return _TokenTable(vocab_size, hidden_size, self)

    def gather_columns(self, x: Tensor) -> Tensor:
        return mappings.all_gather_last_dim_from_tensor_parallel_region(x, group=self.group)  # backward: reduce-scatter

    def largest_of_ranks(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def sum_of_ranks(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self.group)
        return x

    def megatron_config(self, sequence_parallel: bool) -> ModelParallelConfig:
        """What megatron-core's layers ask for; the values of parameters are model/init.py's business."""
        return ModelParallelConfig(
            tensor_model_parallel_size=self.size,
            sequence_parallel=sequence_parallel,
            params_dtype=torch.get_default_dtype(),
            use_cpu_initialization=True,  # allocate on torch's default device, which model/layers.py sets
            perform_initialization=False,
        )


class _ColumnLinear(tensor_parallel.ColumnParallelLinear):
    """y_i = x W_i^T on rank i; x is whole, so nothing is exchanged here in the forward pass."""

    def __init__(self, in_features: int, out_features: int, sharding: TensorParallel) -> None:
        super().__init__(
            in_features,
            out_features,
            config=sharding.megatron_config(sequence_parallel=False),
            init_method=_never,
            bias=False,
            disable_grad_reduce=True,
            tp_group=sharding.group,
        )
        describe(self.weight, ParameterInfo("", (out_features, in_features), shard_dim=0, matrix=True))

    def forward(self, x: Tensor, split: SplitInput | None = None) -> Tensor:
        """``split`` is where ``x`` comes from, if it was gathered."""
        return super().forward(x)[0] if split is None else linear_of_split_input(x, self.weight, split)


class _RowLinear(tensor_parallel.RowParallelLinear):
    """y = sum over ranks of x_i W_i^T; under sequence parallelism each rank keeps its part of the sequence."""

    def __init__(self, in_features: int, out_features: int, product: Product, sharding: TensorParallel) -> None:
        super().__init__(
            in_features,
            out_features,
            config=sharding.megatron_config(sharding.sequence_parallel),
            init_method=_never,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=sharding.group,
        )
        describe(self.weight, ParameterInfo("", (out_features, in_features), shard_dim=1, matrix=True))
        self.product = product
        self.output = SequenceSplitOutput(sharding.group, sharding.row_pieces) if sharding.sequence_parallel else None

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.output is not None:
            return self.product(*inputs, self.weight, self.output)
        return mappings.reduce_from_tensor_model_parallel_region(
            self.product(*inputs, self.weight), group=self.tp_group
        )


class _TokenTable(tensor_parallel.VocabParallelEmbedding):
    """tokens_BT -> x_TBD, each rank looking up its part of the vocabulary."""

    def __init__(self, vocab_size: int, hidden_size: int, sharding: TensorParallel) -> None:
        super().__init__(
            vocab_size,
            hidden_size,
            init_method=_never,
            reduce_scatter_embeddings=sharding.sequence_parallel,
            config=sharding.megatron_config(sharding.sequence_parallel),
            tp_group=sharding.group,
        )
        describe(self.weight, ParameterInfo("", (vocab_size, hidden_size), shard_dim=0))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = super().forward(tokens_BT)
        return x if self.reduce_scatter_embeddings else x.transpose(0, 1).contiguous()


def _never(weight: Tensor) -> None:
    """The init_method of layers that megatron-core does not initialise."""
    raise AssertionError("megatron-core must not initialise parameters")
