"""What defines a run: one frozen tree of settings, its sections in the order in which data flows.

In: YAML and command-line overrides (common/cli.py). Out: a checked RunConfig. What two sections must agree on
is checked in pretrain/checks.py, before any process group starts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from common import defaults
from common.errors import InputError, named
from common.ranges import (
    LARGEST_SEED,
    LONGEST_WAIT,
    MOST_PROCESSES,
    MOST_STEPS,
    MOST_TOKENS,
    check_filled,
    check_name,
    check_place,
    check_range,
)
from data.batch import BatchConfig
from data.config import DataConfig
from model.checks import check_model
from model.config import ModelConfig
from model.kernels.choice import AUTO
from model.kernels.forms.registry import form_named
from model.kernels.rowwise.choice import IMPLEMENTATIONS, implementation_named
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.registry import check_optimizer


@dataclass(frozen=True)
class ParallelConfig:
    """How the model and the optimizer are split over processes; what remains is data parallel."""

    tensor: int = 1
    """tensor-parallel size"""
    context: int = 1
    """ranks over which the tokens of each sample are split, for long samples"""
    context_exchange: Literal["gather", "heads"] = "gather"
    """how attention reaches across these parts: gather keys and values, heads by heads, or give each rank all tokens
    of some heads (which `parallel.context` must divide) and take their outputs back"""
    context_pieces: int = 4
    """gather: pieces in which the heads' keys and values arrive, each while the one before is worked on"""
    pipeline: int = 1
    """pipeline-parallel size (stages)"""
    pipeline_schedule: Literal["1f1b", "zero_bubble"] = "1f1b"
    """order of a stage's work: one forward, one backward pass; or the same with the gradients of weights deferred to
    where the stage would wait for another (docs/parallelism.md)"""
    sequence: bool = False
    """split activations outside the tensor-parallel layers along the sequence"""
    row_pieces: int = 4
    """with `parallel.sequence`: pieces in which the output of a row-parallel layer leaves, each while the next is
    computed; 1: all of it at last"""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage; a pipeline accepts 0 and 1"""
    partition_ranks: int | None = None
    """ZeRO 1 and 2: data-parallel ranks, neighbours, among which state is cut; groups of them keep the same, so less
    crosses slow links between nodes and each rank keeps more; default: all ranks are one group"""
    gradient_exchange: Literal["fp32", "bf16"] = "fp32"
    """type in which gradients travel between data-parallel ranks; ZeRO 1 and 2 add them up in fp32 either way"""
    overlap: bool = True
    """ZeRO 1 and 2: exchange gradients during the backward and weights during the next forward pass, not between"""
    bucket_megabytes: int | None = None
    """ZeRO 1 and 2: MiB of fp32 gradients that leave together; default: a 32nd of the model, more for many ranks"""

    def __post_init__(self) -> None:
        check_range(self, "parallel.", "tensor", low=1, high=MOST_PROCESSES)
        check_range(self, "parallel.", "pipeline", low=1, high=1024)
        check_range(self, "parallel.", "context", low=1, high=MOST_PROCESSES)
        check_range(self, "parallel.", "context_pieces", low=1, high=1024)
        check_range(self, "parallel.", "row_pieces", low=1, high=64)
        check_range(self, "parallel.", "partition_ranks", low=1, high=MOST_PROCESSES)
        check_range(self, "parallel.", "bucket_megabytes", low=1, high=2**20)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the steps: warm-up, then a decay to `final_ratio` of the peak."""

    kind: Literal["linear", "cosine", "wsd"] = "cosine"
    """decay after the warm-up: linear, cosine, or warm-up-stable-decay"""
    warmup_steps: int = 100
    """steps of linear warm-up from 0"""
    decay_steps: int = 0
    """wsd only: the last steps, over which the rate falls linearly"""
    final_ratio: float = 0.1
    """last learning rate as a share of the peak"""

    def __post_init__(self) -> None:
        check_range(self, "schedule.", "warmup_steps", "decay_steps", low=0, high=MOST_STEPS)
        check_range(self, "schedule.", "final_ratio", low=0, high=1)


@dataclass(frozen=True)
class TrainConfig:
    """How long and in which arithmetic."""

    steps: int = defaults.STEPS
    """optimizer steps of the whole run"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """arithmetic of the model; the optimizer's state is fp32 either way"""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """recompute in the backward pass: nothing, what costs little for its size (the attention product and what the
    feed-forward network's last product reads), or whole blocks"""
    attention_form: str = AUTO
    """how the attention product is computed: auto (what was measured to be the fastest on the device), or the name of a
    form in model/kernels/forms/registry.py, as in sdpa or flash2; one that cannot be used here is refused"""
    norm_kernel: str = AUTO
    """what computes RMSNorm: auto (what was measured to be the fastest on the device), torch, written, compiled, apex,
    flash_attn or liger (model/kernels/rowwise/norm.py); one that cannot be used here is refused"""
    swiglu_kernel: str = AUTO
    """the same for the gate of the feed-forward network: auto, written, compiled or flash_attn"""
    rotary_kernel: str = AUTO
    """the same for the rotation of queries and keys: auto, written, compiled or flash_attn"""
    cross_entropy_kernel: str = AUTO
    """the same for the loss of a chunk of logits: auto, written, compiled or flash_attn"""
    prefetch: int = 2
    """global batches that are read ahead in a background thread; 0: none"""

    def __post_init__(self) -> None:
        check_range(self, "train.", "steps", low=1, high=MOST_STEPS)
        check_range(self, "train.", "prefetch", low=0, high=1000)
        if self.attention_form != AUTO:
            with named("train.attention_form"):
                form_named(self.attention_form)
        for operation, name in self.rowwise_kernels.items():
            if name != AUTO:
                implementation_named(operation, name)

    @property
    def rowwise_kernels(self) -> dict[str, str]:
        """What is asked for, by operation."""
        return {operation: getattr(self, f"{operation}_kernel") for operation in IMPLEMENTATIONS}

    @property
    def dtype(self) -> torch.dtype:
        """The type of parameters and activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved and what is kept."""

    every: int = 100
    """steps between checkpoints; the last step is always saved; 0: only the last"""
    keep: int = 3
    """newest checkpoints that are kept; 0 keeps all"""
    keep_every: int = 0
    """checkpoints of steps that are a multiple of this are kept for ever; 0: none"""
    keep_tokens: int = 0
    """the first checkpoint at or past every multiple of this many tokens is kept for ever; 0: none"""
    asynchronous: bool = True
    """write in the background; training waits only for the copy out of the optimizer"""
    on_failure: Literal["continue", "stop"] = "continue"
    """after a save that failed: warn and train on with the older checkpoints, or stop; the last save must succeed"""
    staging: str | None = None
    """node-local folder where every rank writes and checks its file before it goes to the run folder"""
    remote: str | None = None
    """URL of a folder (any that fsspec opens) where checkpoints are copied to; a run folder without any starts there"""
    branch_from: str | None = None
    """checkpoint or run folder whose weights a new run starts from, with its own data, schedule and sequence length"""
    branch_moments: bool = True
    """a branch takes over the optimizer's moments, too; not possible from another optimizer, nor where the weights are
    converted to another attention"""

    def __post_init__(self) -> None:
        check_range(self, "checkpoint.", "every", "keep", "keep_every", low=0, high=MOST_STEPS)
        check_range(self, "checkpoint.", "keep_tokens", low=0, high=MOST_TOKENS)
        check_filled(self, "checkpoint.", "staging", "remote", "branch_from")
        check_place(self, "checkpoint.", "staging", "remote")


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out loss during training."""

    every: int = 100
    """steps between evaluations; the last step is always evaluated; 0: only the last"""
    batches: int = 8
    """global batches of held-out text per evaluation; 0: all of it"""
    ar_hits: bool = True
    """also report the loss of AR-hits (bigrams that stand earlier in the sample and are not frequent) and of others"""
    ar_hit_tokens: int = 10_000_000
    """training tokens in which frequent bigrams are counted, once, at the first evaluation"""
    command: str | None = None
    """started for every checkpoint and not waited for; {run}, {checkpoint} and {step} are filled in, as in
    'sbatch evaluate.sbatch {run} {step}'"""

    def __post_init__(self) -> None:
        check_range(self, "evaluation.", "every", "batches", low=0, high=MOST_STEPS)
        check_range(self, "evaluation.", "ar_hit_tokens", low=1, high=MOST_TOKENS)
        if self.command is not None and not any(place in self.command for place in ("{run}", "{checkpoint}", "{step}")):
            raise InputError(
                "evaluation.command: names no checkpoint; fill in {run}, {checkpoint} or {step}, as in "
                f"'sbatch evaluate.sbatch {{run}} {{step}}'; is '{self.command}'"
            )


@dataclass(frozen=True)
class MetricsConfig:
    """What is reported, and where."""

    every: int = 10
    """steps between logged lines; 0: only the last"""
    telemetry_every: int = 50
    """steps between lines with numbers from inside the model (docs/telemetry.md); 0: never"""
    wandb: bool = True
    """log to Weights & Biases: offline where it cannot be reached or you are not logged in, as WANDB_MODE says where it
    says anything, and never a reason to fail"""
    wandb_project: str = "shared-diff"
    """the project's name there"""
    wandb_entity: str | None = None
    """the user or team whose project it is (default: WANDB_ENTITY, else your own)"""
    wandb_group: str | None = None
    """the group of runs that this one belongs to there (default: WANDB_RUN_GROUP)"""
    wandb_tags: list[str] = field(default_factory=list)
    """labels of the run there (default: WANDB_TAGS)"""
    tensorboard: bool = False
    """write TensorBoard's files, too, into the run folder; needs the package: pip install tensorboard"""

    def __post_init__(self) -> None:
        check_range(self, "metrics.", "every", "telemetry_every", low=0, high=MOST_STEPS)
        check_filled(self, "metrics.", "wandb_project", "wandb_entity", "wandb_group")
        for name in ("wandb_project", "wandb_entity", "wandb_group", "wandb_tags"):
            check_name(self, "metrics.", name)


@dataclass(frozen=True)
class ResilienceConfig:
    """What a run does about hangs, spikes and slow nodes; docs/failures.md tells the rules."""

    hang_seconds: float = 1800.0
    """end the run, with the stacks of all ranks, when no step, evaluation or save finishes for so long; 0: never"""
    spike_window: int = 128
    """applied steps from which the noise of loss and gradient norm is estimated"""
    spike_deviations: float = 10.0
    """robust standard deviations above the recent median at which a loss is skipped; half, if the norm lies out, too"""
    max_skips: int = 8
    """skipped steps within `spike_window` after which the run goes back to before them, around their samples"""
    max_rollbacks: int = 3
    """rollbacks within `spike_window` steps after which the run gives up"""

    def __post_init__(self) -> None:
        check_range(self, "resilience.", "hang_seconds", low=0, high=LONGEST_WAIT)
        check_range(self, "resilience.", "max_skips", "max_rollbacks", low=0, high=MOST_STEPS)
        check_range(self, "resilience.", "spike_window", low=32, high=10**6)
        check_range(self, "resilience.", "spike_deviations", above=0, high=1e30)


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run."""

    name: str = "run"
    """the run's name"""
    seed: int = defaults.SEED
    """seed of the initial weights and of the order of the data"""
    run_dir: str | None = None
    """folder of the run (default: runs/NAME)"""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    resilience: ResilienceConfig = field(default_factory=ResilienceConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    """passed through to DeepSpeed's configuration on top of what is derived from the other sections"""

    def __post_init__(self) -> None:
        check_range(self, "", "seed", low=0, high=LARGEST_SEED)
        check_filled(self, "", "name", "run_dir")
        check_name(self, "", "name")
        check_place(self, "", "run_dir")
        check_model(self.model)
        check_optimizer(self.optimizer)

    @property
    def run_folder(self) -> Path:
        """Where the run lies."""
        return Path(self.run_dir) if self.run_dir else Path("runs") / self.name
