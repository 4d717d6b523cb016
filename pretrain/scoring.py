"""What a checkpoint's model says of given tokens, by the trainer's own layers: for models that fit no single device.

In: a checkpoint of any topology; tokens, the same on every rank. Out: the loss of every token, or the logits behind
some, the same on every rank. Always: weights alone, without optimizer; samples are split over tensor- and
context-parallel ranks as in training, in one pass, without a cache; nowhere are all logits of a sample.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.checks import check_split
from model.context.base import of_all_ranks, spans_of
from model.documents import Documents
from model.exchange import gather_flat
from model.layers import LanguageModel
from model.loss import cross_entropy_TB
from model.parallel import info_of
from model.prediction import Finish, Prediction
from pretrain.build import build_model
from pretrain.checkpoint.layout import WEIGHT, TensorLayout
from pretrain.checkpoint.reader import RangeReader
from pretrain.config import ParallelConfig, RunConfig
from pretrain.engines.connection import context_group, tensor_group
from pretrain.engines.micro_batch import MicroBatch
from pretrain.topology import Topology, device_of, topology_from_environment


def scoring_config(config: RunConfig, tensor: int) -> RunConfig:
    """A run's ``config`` for the ranks that there are: ``tensor`` of them split the weights, all others the tokens.

    Raises:
        InputError: the weights or the ranks do not split so.
    """
    sequence = tensor > 1
    check_split(
        config.model,
        tensor_size=tensor,
        sequence_parallel=sequence,
        sequence_length=tensor,  # ``Scorer`` fills samples up to what splits
    )
    parallel = ParallelConfig(tensor=tensor, sequence=sequence, zero_stage=0)
    context = topology_from_environment(parallel).data_size
    return replace(config, parallel=replace(parallel, context=context))


class Scorer:
    """The model of ``reader`` on this rank; every method is a collective call with the same arguments."""

    def __init__(self, config: RunConfig, topology: Topology, reader: RangeReader) -> None:
        self._topology = topology
        self._device = device_of(topology)
        self._model = LanguageModel(build_model(config, topology)).requires_grad_(False)
        for parameter in self._model.parameters():
            _fill(parameter, reader, topology)
        of_sequence = topology.tensor_size if topology.sequence_parallel else 1
        of_context = 2 * topology.context_size if topology.context_size > 1 else 1
        self._multiple = math.lcm(of_context, topology.context_size * of_sequence)

    @torch.no_grad()
    def losses(self, tokens_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """-log p of tokens 1 .. T-1 given those before, [B, T-1] in fp32 on the host.

        ``starts_BT`` [B, T-1] keeps attention and positions inside documents.
        """
        batch = self._batch(tokens_BT[:, :-1], tokens_BT[:, 1:], starts_BT)
        loss_TB = self._model(batch.payload(), finish=cross_entropy_TB(batch.labels_BT))
        if self._topology.context_size > 1:
            loss_TB = of_all_ranks(loss_TB, context_group())
        return loss_TB[: tokens_BT.shape[1] - 1].t().cpu()

    @torch.no_grad()
    def logits(self, ids_T: Sequence[int], places: Sequence[int]) -> Tensor:
        """What is said behind the tokens at ``places`` of ``ids_T``: logits [places, V] in fp32 on the host."""
        tokens = torch.tensor([list(ids_T)])
        batch = self._batch(tokens, tokens, None)
        return self._model(batch.payload(), finish=self._behind(places, batch.tokens_BT.shape[1])).float().cpu()

    def _batch(self, tokens_BT: Tensor, labels_BT: Tensor, starts_BT: Tensor | None) -> MicroBatch:
        """This rank's part; behind a sample, where nothing before can see it, it is filled up."""
        length = tokens_BT.shape[1]
        more = -length % self._multiple
        tokens, labels = (F.pad(x_BT, (0, more)) for x_BT in (tokens_BT, labels_BT))
        documents = None if starts_BT is None else Documents.of(F.pad(starts_BT, (0, more), value=length))
        return MicroBatch(tokens, labels, documents).cut(self._spans(length + more)).to(self._device)

    def _spans(self, length: int) -> tuple[tuple[int, int], ...]:
        return spans_of(length, self._topology.context_size, self._topology.context_rank)

    def _behind(self, places: Sequence[int], tokens_per_rank: int) -> Finish:
        """Of a prediction the logits [places, V] of the only sample: who has a place sends its activations to all."""
        spans = self._spans(tokens_per_rank * self._topology.context_size)
        own = {place: row for row, place in enumerate(index for span in spans for index in range(*span))}
        found = [(number, own[place]) for number, place in enumerate(places) if place in own]

        def finish(prediction: Prediction) -> Tensor:
            x_TD = prediction.sharding.exchange.gather(prediction.x_TBD)()[:, 0]
            x_ND = x_TD.new_zeros(len(places), x_TD.shape[1])
            for number, row in found:
                x_ND[number] = x_TD[row]
            if self._topology.context_size > 1:
                dist.all_reduce(x_ND, group=context_group())
            logits = F.linear(x_ND, prediction.weight_VD)
            ranks = self._topology.tensor_size
            if ranks == 1:
                return logits
            everyone = logits.new_empty(ranks * len(logits), logits.shape[1])
            gather_flat(everyone, logits.contiguous(), tensor_group()).wait()
            return everyone.unflatten(0, (ranks, -1)).movedim(0, 1).flatten(1)

        return finish


def _fill(parameter: nn.Parameter, reader: RangeReader, topology: Topology) -> None:
    """This rank's part of ``parameter`` from the checkpoint."""
    info = info_of(parameter)
    layout = TensorLayout(info.full_shape, info.shard_dim, topology.tensor_size)
    rank = 0 if info.shard_dim is None else topology.tensor_rank
    parameter.data.copy_(reader.read_range(info.name, WEIGHT, layout, rank, 0, parameter.numel()).view_as(parameter))
