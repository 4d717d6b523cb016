"""The kinds of attention beside transformers' Llama and DiffLlama on a CPU: `python scripts/bench_peers.py`.

In: precisions, sequence lengths. Out: for each of them a table: milliseconds of a training step (forward, loss,
backward), and its speed as a multiple of Llama's and of DiffLlama's, each with its fastest attention back end; with
`--accounts` also what each step multiplies, and where its time goes.
Always: all models have the same shape; they take turns within one run, so that a noisy machine disturbs all alike; the
median of the rounds counts. `bf16` has weights in bf16, as the trainer has, `autocast` fp32 ones. flash-attn, the
peers' third back end, needs a GPU.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from common.cli import run_command
from common.flags import FlagParser
from common.library_caches import keep_compiled_code_private
from common.ranges import check_range
from model.config import ModelConfig
from model.kinds.registry import kind_names
from model.layers import LanguageModel, build_layers
from model.loss import mean_loss
from model.parallel import Unsharded
from model.prediction import Prediction
from scripts.speed.arithmetic import multiply_adds, profiled_once

SHAPE = ModelConfig(
    num_layers=6, hidden_size=512, ffn_hidden_size=1376, num_heads=4, head_dim=64, rank=16, vocab_size=8192
)
PEERS = {"Llama": "LlamaForCausalLM", "DiffLlama": "DiffLlamaForCausalLM"}
PRECISIONS = {"fp32": torch.float32, "autocast": torch.float32, "bf16": torch.bfloat16}
"""precision -> type of the weights"""
BACK_ENDS = ("eager", "sdpa")
WARM_UP = 2
ABSENT = ("optimizer", "communication")
"""parts of an account that a forward and a backward pass do not have"""


@dataclass
class Contender:
    """A model, and what was measured of it."""

    name: str
    peer: str | None
    """the model of transformers that it is; None: one of ours"""
    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    """of tokens [B, T + 1]"""
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = FlagParser(prog="python scripts/bench_peers.py", description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048], help="sequence lengths")
    parser.add_argument("--precisions", nargs="+", default=[*PRECISIONS], choices=PRECISIONS, help="arithmetic")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a micro-batch")
    parser.add_argument("--layers", type=int, default=SHAPE.num_layers, help="blocks that are built")
    parser.add_argument("--rounds", type=int, default=15, help=f"measured rounds, after {WARM_UP} that are not")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--accounts", action="store_true", help="count and profile one more step of each")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "lengths", "tokens", "layers", "rounds", "threads", low=1)
    with threads(flags.threads):
        contenders = list(build(replace(SHAPE, num_layers=flags.layers), max(flags.lengths)))
        for precision in flags.precisions:
            for length in flags.lengths:
                rows = max(1, flags.tokens // length)
                tokens_BT = torch.randint(SHAPE.vocab_size, (rows, length + 1))
                measure(contenders, tokens_BT, precision, flags.rounds)
                print(f"\n{precision}, {rows} x {length} tokens, {flags.threads} threads")
                for line in table(contenders):
                    print(line, flush=True)
                if flags.accounts:
                    print()
                    for line in accounts(contenders, tokens_BT, precision):
                        print(line, flush=True)
    return 0


def build(config: ModelConfig, longest: int) -> Iterator[Contender]:
    """Every kind of ours, then every peer with each of its back ends."""
    for kind in kind_names():
        ours = LanguageModel(build_layers(replace(config, attention=kind), Unsharded(), seed=1, dtype=torch.float32))
        yield Contender(kind, None, ours, partial(loss_of_ours, ours))
    for peer in PEERS:
        for back_end in BACK_ENDS:
            theirs = peer_model(peer, config, longest, back_end)
            yield Contender(f"{peer} {back_end}", peer, theirs, partial(loss_of_peer, theirs))


def loss_of_ours(model: LanguageModel, tokens_BT: Tensor) -> Tensor:
    """The trainer's loss, which knows no autocast: its inputs are cast here."""

    def finish(prediction: Prediction) -> Tensor:
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else prediction.weight_VD.dtype
        x_TBD, weight_VD = prediction.x_TBD.to(dtype), prediction.weight_VD.to(dtype)
        with torch.autocast("cpu", enabled=False):
            return mean_loss(tokens_BT[:, 1:])(replace(prediction, x_TBD=x_TBD, weight_VD=weight_VD))

    loss = model(tokens_BT[:, :-1], finish=finish)
    assert isinstance(loss, Tensor)
    return loss


def loss_of_peer(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """transformers' own loss."""
    loss: Tensor = model(tokens_BT[:, :-1], labels=tokens_BT[:, :-1], use_cache=False).loss
    return loss


def peer_model(peer: str, config: ModelConfig, longest: int, back_end: str) -> nn.Module:
    """The model of transformers with the shape of ``config``."""
    keep_compiled_code_private()
    import transformers

    model_class = getattr(transformers, PEERS[peer])
    heads = 2 * config.num_heads
    settings = model_class.config_class(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=config.head_dim,
        max_position_embeddings=longest,
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=config.tie_embeddings,
    )
    settings._attn_implementation = back_end
    torch.manual_seed(1)
    model: nn.Module = model_class(settings).train()
    return model


def measure(contenders: Sequence[Contender], tokens_BT: Tensor, precision: str, rounds: int) -> None:
    """Lets the contenders take turns; earlier measurements are dropped."""
    for contender in contenders:
        contender.seconds.clear()
        lay_side_by_side(contender.model, PRECISIONS[precision])
    for number in range(WARM_UP + rounds):
        for contender in contenders:
            begin = time.perf_counter()
            step(contender, tokens_BT, precision)
            if number >= WARM_UP:
                contender.seconds.append(time.perf_counter() - begin)
            contender.model.zero_grad(set_to_none=True)


def lay_side_by_side(model: nn.Module, dtype: torch.dtype) -> None:
    """Moves the weights into one flat buffer, as they lie while the trainer trains."""
    parameters = list(model.parameters())
    flat = torch.cat([parameter.detach().flatten().to(dtype) for parameter in parameters])
    for parameter, part in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
        parameter.data = part.view_as(parameter)


def step(contender: Contender, tokens_BT: Tensor, precision: str) -> None:
    """Forward, loss, backward; the pass back within autocast, too, where our own products go by it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        contender.loss(tokens_BT).backward()


def table(contenders: Sequence[Contender]) -> list[str]:
    """One line per contender."""
    best = {peer: min(other.median for other in contenders if other.peer == peer) for peer in PEERS}
    lines = [f"{'':<18}{'parameters':>12}{'ms':>10}" + "".join(f"{'x ' + peer:>13}" for peer in PEERS)]
    for contender in contenders:
        parameters = sum(parameter.numel() for parameter in contender.model.parameters())
        ratios = "".join(f"{best[peer] / contender.median:>13.2f}" for peer in PEERS)
        lines.append(f"{contender.name:<18}{parameters:>12,}{contender.median * 1e3:>10.1f}{ratios}")
    return lines


def accounts(contenders: Sequence[Contender], tokens_BT: Tensor, precision: str) -> Iterator[str]:
    """One line per contender: 10^9 multiply-adds of a step, and milliseconds by what they are spent on."""
    for number, contender in enumerate(contenders):
        once = partial(step, contender, tokens_BT, precision)
        count, spent = multiply_adds(once), profiled_once(once)
        contender.model.zero_grad(set_to_none=True)
        parts = {name: share for name, share in spent.shares().items() if name not in ABSENT}
        if number == 0:
            yield f"{'':<18}{'10^9 mult.':>12}{'ms':>10}" + "".join(f"{name:>11}" for name in parts)
        cells = "".join(f"{share * spent.seconds * 1e3:>11.1f}" for share in parts.values())
        yield f"{contender.name:<18}{count / 1e9:>12.3f}{spent.seconds * 1e3:>10.1f}{cells}"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes on ``count`` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
