"""Global batches as tensors, read ahead: sample numbers in, this rank's micro-batches out.

In: a token stream and a Topology. Out: the micro-batches of step after step.
Always: what step s holds depends on (data config, seed, batch sizes, s) only; no state but the step.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray

from common.environment import whole_number
from data.batch import BatchSchedule, document_starts
from data.dealing import Dealing
from data.lookahead import Lookahead
from data.stream import Samples
from model.context.base import spans_of
from model.documents import Documents
from pretrain.config import RunConfig
from pretrain.engines.micro_batch import MicroBatch
from pretrain.topology import Topology, device_of

LONG_WAIT = 1.0
"""seconds that a step may wait for its data before the log says so"""


def _unmarked(batch: MicroBatch) -> MicroBatch:
    return batch


class BatchFeed:
    """Micro-batches of one rank."""

    def __init__(
        self,
        samples: Samples,
        config: RunConfig,
        topology: Topology,
        schedule: BatchSchedule | None = None,
        marks: Callable[[MicroBatch], MicroBatch] = _unmarked,
    ) -> None:
        """``schedule`` says which samples a step takes; by default the run's own. ``marks`` sees whole samples."""
        self._marks = marks
        self._samples = samples
        schedule = schedule or config.batch.schedule
        self._dealing = Dealing(samples, schedule, config.batch.micro_size, topology.data_size)
        self._document_attention = config.data.document_attention
        self._prefetch = config.train.prefetch
        self._topology = topology
        self._device = device_of(topology)
        self.waited = 0.0
        """seconds that the newest step of ``steps`` was waited for"""

    def step(self, step: int) -> list[MicroBatch]:
        """The micro-batches of step ``step``, counted from 0."""
        numbers = self._dealing.rank_samples(step, self._topology.data_rank)
        return [self._micro_batch(self._samples.fetch(chunk)) for chunk in numbers]

    def steps(self, start: int, stop: int) -> Iterator[list[MicroBatch]]:
        """Steps ``start`` .. ``stop - 1``, read ahead in a thread; an error there is raised here."""
        processes = whole_number("LOCAL_WORLD_SIZE", 1, low=1)
        with (
            self._samples.look_ahead(self._numbers, start, stop, processes) as ahead,
            closing(self._read_all(start, stop, ahead)) as steps,
        ):
            asked = time.perf_counter()
            for step, item in enumerate(steps, start=start):
                given = time.perf_counter()
                self.waited = given - asked
                if self.waited > LONG_WAIT and step > start:
                    logging.getLogger(__name__).warning("step %d waited %.1f s for its data", step, self.waited)
                yield item
                asked = time.perf_counter()
                ahead.stepped(asked - given)

    def _numbers(self, step: int) -> NDArray[np.int64]:
        """The samples of this rank."""
        return np.concatenate(self._dealing.rank_samples(step, self._topology.data_rank))

    def _read_all(self, start: int, stop: int, ahead: Lookahead) -> Generator[list[MicroBatch], None, None]:
        if self._prefetch < 1:
            for step in range(start, stop):
                ahead.reached(step)
                yield self.step(step)
            return
        ready: queue.Queue[list[MicroBatch] | BaseException] = queue.Queue(maxsize=self._prefetch)
        stopped = threading.Event()
        threading.Thread(target=self._read_ahead, args=(start, stop, ready, stopped, ahead), daemon=True).start()
        try:
            for _ in range(start, stop):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()

    def _read_ahead(
        self,
        start: int,
        stop: int,
        ready: "queue.Queue[list[MicroBatch] | BaseException]",
        stopped: threading.Event,
        ahead: Lookahead,
    ) -> None:
        item: list[MicroBatch] | BaseException
        for step in range(start, stop):
            ahead.reached(step)
            try:
                item = self.step(step)
            except BaseException as error:
                item = error
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=1.0)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(item, BaseException):
                return

    def _micro_batch(self, tokens: np.ndarray) -> MicroBatch:
        whole = torch.from_numpy(np.ascontiguousarray(tokens))
        inputs, labels = whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
        documents = None
        if self._document_attention:
            documents = Documents.of(torch.from_numpy(document_starts(tokens[:, :-1], self._samples.eod_id)))
        topology = self._topology
        spans = spans_of(inputs.shape[1], topology.context_size, topology.context_rank)
        batch = self._marks(MicroBatch(inputs, labels, documents)).cut(spans)
        return batch.pinned() if self._device.type == "cuda" else batch
