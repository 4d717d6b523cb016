"""What the lab compares: programs that train one small model, each in its own way.

In: nothing. Out: programs by name, and their RunConfig. Always: every program takes the same samples per step and
replica, or a multiple of them; the model's embedding is a small part of it, as in real ones.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from data.batch import BatchConfig
from data.config import DataConfig
from model.config import ModelConfig
from pretrain.config import ParallelConfig, RunConfig, TrainConfig
from pretrain.optimizers.config import OptimizerConfig

Stage = Literal[0, 1, 2, 3]
Kind = Literal["engine", "plain", "ddp", "alone", "races"]
Precision = Literal["fp32", "bf16"]
SAMPLES = 4
"""of each replica in a step of one micro-batch"""
LENGTH = 128
"""tokens of a sample"""
SHARED_LENGTH = 1024
"""of one that ranks share, one to a micro-batch: as many tokens for each of two ranks, and products to hide behind"""
BUCKET_MEGABYTES = 4
"""what leaves together: a 22nd of the gradients"""
MODEL = ModelConfig(
    num_layers=12,
    hidden_size=384,
    ffn_hidden_size=1024,
    num_heads=6,
    head_dim=32,
    rank=24,
    vocab_size=2048,
)
TINY = replace(MODEL, num_layers=4, hidden_size=64, ffn_hidden_size=128, num_heads=2, head_dim=16, rank=6)
"""of the races, which take hundreds of steps"""


@dataclass(frozen=True)
class Program:
    """One way to train."""

    kind: Kind
    """the engine; a plain loop that exchanges nothing; torch's DistributedDataParallel; engine and plain loop in turn,
    one process; the engine with and without random delays"""
    zero_stage: Stage = 0
    precision: Precision = "fp32"
    micro_batches: int = 1
    overlap: bool = True
    pipeline: int = 1
    tensor: int = 1
    row_pieces: int = 1
    """with tensor parallelism, which here is sequence parallel"""
    context: int = 1
    context_pieces: int = 1
    """in which keys and values are gathered where ranks share samples"""
    grown: bool = False
    """each micro-batch has the samples of a whole step, which so has several times as many; else its part of them"""

    @property
    def nodes(self) -> int:
        """Nodes of one process each."""
        return 1 if self.kind == "alone" else max(2, self.tensor, self.context) * self.pipeline

    @property
    def name(self) -> str:
        """As in "zero1 fp32 x4 overlap", and "zero1 fp32 x4 samples overlap" where the step has grown."""
        zero = f"zero{self.zero_stage}"
        parts = [self.kind if self.kind in ("plain", "ddp", "alone") else zero, self.precision]
        parts += [f"x{self.micro_batches}" + " samples" * self.grown] if self.micro_batches > 1 else []
        parts += ["2 stages"] if self.pipeline > 1 else []
        parts += [f"tensor {self.tensor}, pieces {self.row_pieces}"] if self.tensor > 1 else []
        parts += [f"context {self.context}, pieces {self.context_pieces}"] if self.context > 1 else []
        if self.kind == "races":
            parts.insert(0, "races")
        elif self.kind == "engine" and self.can_overlap and self.tensor == self.context == 1:
            parts.append("overlap" if self.overlap else "no overlap")
        return " ".join(parts)

    @property
    def can_overlap(self) -> bool:
        """Whether ``parallel.overlap`` means something to it."""
        return self.zero_stage in (1, 2)

    @property
    def config(self) -> RunConfig:
        """The training's settings."""
        micro_size = SAMPLES if self.grown else SAMPLES // self.micro_batches
        length = 32 if self.kind == "races" else LENGTH
        if self.context > 1:
            micro_size, length = 1, SHARED_LENGTH
        replicas = self.nodes // self.pipeline // self.tensor // self.context
        exchange: dict[str, Any] = {}
        if self.can_overlap:
            exchange = {"overlap": self.overlap, "bucket_megabytes": BUCKET_MEGABYTES}
        return RunConfig(
            model=TINY if self.kind == "races" else MODEL,
            data=DataConfig(sequence_length=length),
            parallel=ParallelConfig(
                zero_stage=self.zero_stage,
                pipeline=self.pipeline,
                tensor=self.tensor,
                sequence=self.tensor > 1,
                row_pieces=self.row_pieces,
                context=self.context,
                context_pieces=self.context_pieces,
                **exchange,
            ),
            batch=BatchConfig(global_size=micro_size * self.micro_batches * replicas, micro_size=micro_size),
            optimizer=OptimizerConfig(learning_rate=1e-3, gradient_clipping=1.0),
            train=TrainConfig(precision=self.precision, prefetch=0),
        )


def all_programs() -> list[Program]:
    """In the order in which they are measured: first what all others are compared with."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    sizes = (1, 4)
    plain = [
        Program("plain", precision=precision, micro_batches=size) for precision, size in product(precisions, sizes)
    ]
    peers = [Program("ddp", micro_batches=size) for size in sizes]
    alone = [Program("alone", zero_stage=1, precision=precision) for precision in precisions]
    stages: dict[Precision, tuple[Stage, ...]] = {"fp32": (1, 2, 0, 3), "bf16": (1, 2, 3)}
    engines = [
        Program("engine", stage, precision, size, overlap)
        for precision, size in product(precisions, sizes)
        for stage in stages[precision]
        for overlap in ((True, False) if stage in (1, 2) else (True,))
    ]
    hiding: tuple[Stage, ...] = (1, 2)
    grown = [Program("engine", stage, precision, 4, grown=True) for precision, stage in product(precisions, hiding)]
    staged = [Program("engine", 1, "fp32", 4, overlap, pipeline=2) for overlap in (True, False)]
    staged.insert(0, Program("engine", 1, "fp32", 4, pipeline=2, grown=True))
    divided = [Program("engine", 1, tensor=2, row_pieces=pieces) for pieces in (4, 1)]
    shared = [Program("engine", 1, "fp32", 4, grown=True, context=2, context_pieces=pieces) for pieces in (3, 1)]
    raced: tuple[tuple[Stage, int], ...] = ((1, 1), (1, 4), (2, 4), (3, 1))
    races = [Program("races", stage, micro_batches=size) for stage, size in raced]
    return [*plain, *alone, *peers, *engines, *grown, *staged, *divided, *shared, *races]


def yardstick(program: Program) -> Program:
    """The plain loop whose steps are the arithmetic that sets the rates of ``program``'s links."""
    return Program("plain", precision=program.precision, micro_batches=1 if program.grown else program.micro_batches)


def rated_as(program: Program) -> Program:
    """The program whose exchange sets those rates: itself, or the step of one micro-batch that has grown to it."""
    return replace(program, micro_batches=1, grown=False) if program.grown else program
