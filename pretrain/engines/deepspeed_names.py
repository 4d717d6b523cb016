"""The names and kinds of DeepSpeed's own settings: DeepSpeed passes over what it does not know.

In: the `deepspeed` section. Out: nothing, or an InputError with the nearest known name. Always: DeepSpeed is imported
only for the parts of which it has models of its own.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import InputError, nearest
from common.ranges import MOST_STEPS, check_range
from common.typed import check_section, shown
from pretrain.engines.accelerator import choose_accelerator

DataType = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class ActivationCheckpointing:
    """deepspeed.activation_checkpointing"""

    partition_activations: bool = False
    number_checkpoints: int | None = None
    contiguous_memory_optimization: bool = False
    synchronize_checkpoint_boundary: bool = False
    profile: bool = False
    cpu_checkpointing: bool = False


@dataclass(frozen=True)
class FlopsProfiler:
    """deepspeed.flops_profiler"""

    enabled: bool = False
    recompute_fwd_factor: float = 0.0
    profile_step: int = 1
    module_depth: int = -1
    top_modules: int = 1
    detailed: bool = True
    output_file: str | None = None


@dataclass(frozen=True)
class Aio:
    """deepspeed.aio, for the offload to NVMe"""

    block_size: int = 1 << 20
    queue_depth: int = 8
    intra_op_parallelism: int = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


@dataclass(frozen=True)
class DataTypes:
    """deepspeed.data_types"""

    grad_accum_dtype: DataType | None = None


@dataclass(frozen=True)
class DeepSpeedSettings:
    """What may stand in the `deepspeed` section beside what other sections decide; a part is no null, which would take
    away what this framework puts there."""

    steps_per_print: int = 10
    dump_state: bool = False
    disable_python_gc: bool = False
    disable_allgather: bool = False
    communication_data_type: DataType | None = None
    prescale_gradients: bool = False
    gradient_predivide_factor: float = 1.0
    gradient_allreduce_op: Literal["mean", "sum"] = "mean"
    zero_force_ds_cpu_optimizer: bool = True
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    activation_checkpointing: ActivationCheckpointing = field(default_factory=ActivationCheckpointing)
    flops_profiler: FlopsProfiler = field(default_factory=FlopsProfiler)
    aio: Aio = field(default_factory=Aio)
    data_types: DataTypes = field(default_factory=DataTypes)
    zero_optimization: dict[str, Any] = field(default_factory=dict)
    comms_logger: dict[str, Any] = field(default_factory=dict)
    compile: dict[str, Any] = field(default_factory=dict)
    tensorboard: dict[str, Any] = field(default_factory=dict)
    csv_monitor: dict[str, Any] = field(default_factory=dict)
    comet: dict[str, Any] = field(default_factory=dict)
    wandb: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(self, "deepspeed.", "steps_per_print", low=1, high=MOST_STEPS)
        check_range(self, "deepspeed.", "gradient_predivide_factor", above=0, high=1e30)


MODELS = {
    "zero_optimization": "deepspeed.runtime.zero.config.DeepSpeedZeroConfig",
    "comms_logger": "deepspeed.comm.config.CommsLoggerConfig",
    "compile": "deepspeed.compile.config.CompileConfig",
    "tensorboard": "deepspeed.monitor.config.TensorBoardConfig",
    "csv_monitor": "deepspeed.monitor.config.CSVConfig",
    "comet": "deepspeed.monitor.config.CometConfig",
    "wandb": "deepspeed.monitor.config.WandbConfig",
}
"""DeepSpeed's own description of a part"""


def check_deepspeed_settings(settings: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown name at any level, or a value that DeepSpeed would refuse or misread."""
    check_section(DeepSpeedSettings, settings, "config", "deepspeed")
    plain = {one.name for one in dataclasses.fields(DeepSpeedSettings)} - set(MODELS)
    DeepSpeedSettings(**{name: value for name, value in settings.items() if name in plain})
    for name, path in MODELS.items():
        if settings.get(name):
            _check_model(path, settings[name], f"deepspeed.{name}")


def _check_model(path: str, values: Mapping[str, Any], where: str) -> None:
    from pydantic import ValidationError

    choose_accelerator()
    module, _, name = path.rpartition(".")
    model = getattr(importlib.import_module(module), name)
    try:
        built = model(strict=True, **values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            known = _names(model, first["loc"][:-1])
            raise InputError(f"{key}: unknown key{nearest(str(first['loc'][-1]), known)}") from None
        raise InputError(f"{key}: {first['msg']}, is {shown(first['input'])}") from None
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{where}: {str(error)[:300]}") from None
    _check_kinds(built, values, where)


def _names(model: Any, location: tuple[Any, ...]) -> list[str]:
    """The settings of the part at ``location`` within ``model``."""
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        inner = fields[part].annotation if part in fields else None
        model = next((each for each in (inner, *getattr(inner, "__args__", ())) if hasattr(each, "model_fields")), None)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _check_kinds(built: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuses true for a number and '5' for 5: the plan reads what was written, not what DeepSpeed makes of it."""
    for name, one in type(built).model_fields.items():
        given, taken = values.get(one.alias or name, values.get(name)), getattr(built, name)
        if isinstance(given, bool) != isinstance(taken, bool) and given is not None and not isinstance(given, dict):
            wanted = "true or false" if isinstance(taken, bool) else "a number"
            raise InputError(f"{where}.{one.alias or name}: must be {wanted}, is {shown(given)}")
        if isinstance(given, str) and isinstance(taken, int | float):
            raise InputError(f"{where}.{one.alias or name}: must be a number, is {shown(given)}")
