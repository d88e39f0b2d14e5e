"""`python -m bench.formats`: two ways of running candidates that the oracle does not take by default, as measured.

Channels last: the network and its images with channels innermost, whole and cut, against the usual order. Stacked: the
candidates of one group in one pass, their activations one below the other and masked, against a pass for each that is
cut: what is before the group's readers is then run once, but at full width. Both in turns, in processor seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bench.mtfl.mtfl import FaceNet
from bench.oracle_speed.cases import ROOT
from bench.pages import put
from bench.zoo.cifar import cifar_resnet
from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, Group, Keep
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from passes.layout import in_channels_last
from passes.ratios import Cutter
from specs.options import PagcpOptions

RESULT = Path(__file__).parent / "results" / "formats.json"
PAGE = ROOT / "docs" / "searches.md"
TURNS = 7
SHARE = 0.35
"""What is cut of every group where networks are timed that are cut."""
STACKS = {2: (0.35, 0.4), 4: (0.3, 0.35, 0.4, 0.45)}
"""How many candidates are stacked, and their ratios: two are what a group needs that is found at once."""


@dataclass(frozen=True)
class Net:
    """A network in eval mode, its input's shape without the batch, and batches as searches see them."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    sizes: tuple[int, ...]

    def traced(self) -> tuple[Program, ChannelGraph]:
        """Its program and what that couples."""
        program = trace(self.model.eval(), [TensorSpec((1, *self.shape))])
        return program, analyse(program)


def nets() -> tuple[Net, ...]:
    """With the weights that they start from: what these are does not matter here."""
    torch.manual_seed(0)
    return (
        Net("resnet20", cifar_resnet(20), (3, 32, 32), (32, 250)),
        Net("mtfl", FaceNet(), (1, 48, 48), (32, 100)),
        Net("digits", _digits(), (1, 8, 8), (64,)),
    )


def _digits() -> nn.Module:
    import sys

    sys.path.insert(0, str(ROOT / "specs" / "examples"))
    import digits

    built: nn.Module = digits.build()
    return built


def in_turns(ways: Mapping[str, Callable[[], object]], turns: int = TURNS) -> dict[str, float]:
    """The median processor seconds of each, one after the other so often."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            began = time.process_time()
            with torch.inference_mode():
                way()
            if turn:  # the first one warms up
                spent[name].append(time.process_time() - began)
    return {name: median(each) for name, each in spent.items()}


def cut(channels: ChannelGraph, groups: Sequence[Group], share: float) -> Keep:
    """The keep-set with that share of the groups cut, units in a random order that is the same for every share."""
    cutter, keep = Cutter(channels, PagcpOptions()), channels.all
    for group in groups:
        scores = np.random.default_rng(0).permutation(group.units.size).astype(np.float64)
        keep = cutter.cut(keep, group, scores, share).keep
    return keep


def channels_last(net: Net) -> Iterator[dict[str, Any]]:
    """A row for every batch size, of the whole network and of the cut one."""
    program, channels = net.traced()
    groups = Cutter(channels, PagcpOptions()).groups
    for name, keep in {"whole": channels.all, "cut": cut(channels, groups, SHARE)}.items():
        usual = materialise(program, channels, keep).module
        last = in_channels_last(materialise(program, channels, keep).module)
        for size in net.sizes:
            images = torch.randn(size, *net.shape)
            turned = images.contiguous(memory_format=torch.channels_last)
            spent = in_turns({"usual": partial(usual, images), "last": partial(last, turned)})
            yield {
                "net": net.name,
                "widths": name,
                "batch": size,
                "usual_ms": round(1000 * spent["usual"], 2),
                "channels_last_ms": round(1000 * spent["last"], 2),
                "gain": round(spent["usual"] / spent["last"], 2),
            }


class Tail:
    """A traced network from one of its nodes on."""

    def __init__(self, module: fx.GraphModule, first: str) -> None:
        self.nodes = list(module.graph.nodes)
        self.first = next(i for i, node in enumerate(self.nodes) if node.name == first)
        self._interpreter = fx.Interpreter(module)

    def live(self, before: int) -> list[str]:
        """What was computed before that place and is read from there on."""
        rest = set(self.nodes[before:])
        return [n.name for n in self.nodes[:before] if n.op.startswith("call_") and rest & set(n.users)]

    def run(self, values: Mapping[str, Any], start: int, stop: int, inputs: tuple[Tensor, ...] = ()) -> dict[str, Any]:
        """All values of the nodes from `start` to before `stop`, given those before."""
        env = {node: values[node.name] for node in self.nodes if node.name in values}
        self._interpreter.env, self._interpreter.args_iter = env, iter(inputs)
        for place, node in enumerate(self.nodes[:stop]):
            if place >= start or (node.op == "get_attr"):
                env[node] = self._interpreter.run_node(node)
        return {node.name: value for node, value in env.items()}


def stacked(net: Net, size: int, count: int) -> dict[str, Any]:
    """Seconds over the groups that one layer makes, of so many candidates each, and how far off their outputs are."""
    program, channels = net.traced()
    groups = [group for group in Cutter(channels, PagcpOptions()).groups if len(group.producers) == 1]
    spent, apart = {"each": 0.0, "stacked": 0.0}, 0.0
    images = torch.randn(size, *net.shape)
    for group in groups:
        each, together = _ways(program, channels, group, [cut(channels, [group], r) for r in STACKS[count]], images)
        with torch.inference_mode():
            apart = max(apart, _distance(each(), together()))
        found = in_turns({"each": each, "stacked": together})
        spent = {name: spent[name] + found[name] for name in spent}
    return {
        "net": net.name,
        "batch": size,
        "candidates": count,
        "groups": len(groups),
        "each_ms": round(1000 * spent["each"], 1),
        "stacked_ms": round(1000 * spent["stacked"], 1),
        "gain": round(spent["each"] / spent["stacked"], 2),
        "differs_by": float(f"{apart:.1e}"),
    }


def _ways(
    program: Program, channels: ChannelGraph, group: Group, keeps: Sequence[Keep], images: Tensor
) -> tuple[Callable[[], list[Any]], Callable[[], list[Any]]]:
    """Both ways to run the candidates, from the activations before the group's first layer on."""
    carrying = [n for n, value in channels.values.items() if bool(np.isin(value.units, group.units).any())]
    first = next(n.name for n in program.module.graph.nodes if n.name in carrying and n.op.startswith("call_"))
    whole = Tail(program.module, first)
    reader = next(i for i, n in enumerate(whole.nodes) if i > whole.first and n.name not in carrying)
    with torch.inference_mode():
        values = whole.run({}, 0, whole.first, (images,))
    before = {name: values[name] for name in whole.live(whole.first)} | {whole.nodes[0].name: images}
    cuts = [Tail(materialise(program, channels, keep).module, first) for keep in keeps]
    masks = {name: _mask(channels, name, keeps) for name in whole.live(reader) if name in carrying}
    last = whole.nodes[-1].name

    def each() -> list[Any]:
        return [tail.run(before, tail.first, len(tail.nodes))[last] for tail in cuts]

    def together() -> list[Any]:
        found = whole.run(before, whole.first, reader)
        many = {name: _repeated(found[name], len(keeps), masks.get(name)) for name in whole.live(reader)}
        many[whole.nodes[0].name] = images
        output = whole.run(many, reader, len(whole.nodes))[last]
        return [_part(output, k, len(keeps)) for k in range(len(keeps))]

    return each, together


def _mask(channels: ChannelGraph, name: str, keeps: Sequence[Keep]) -> Tensor:
    """[candidates, channels]: 1 where a channel is kept."""
    return torch.stack([torch.from_numpy(keep[channels.values[name].units]).float() for keep in keeps])


def _repeated(value: Tensor, count: int, mask: Tensor | None) -> Tensor:
    """The value [N, C, ...] `count` times below itself, masked."""
    if mask is None:
        return value.repeat(count, *[1] * (value.ndim - 1))
    return (value.unsqueeze(0) * mask.reshape(count, 1, -1, *[1] * (value.ndim - 2))).flatten(0, 1)


def _part(output: Any, number: int, count: int) -> Any:
    if isinstance(output, Tensor):
        return output.chunk(count)[number]
    return {name: _part(each, number, count) for name, each in output.items()}


def _distance(one: Any, other: Any) -> float:
    if isinstance(one, Tensor):
        return float((one - other).abs().max() / one.abs().max())
    pairs = zip(one.values(), other.values(), strict=True) if isinstance(one, dict) else zip(one, other, strict=True)
    return max(_distance(*pair) for pair in pairs)


def table(found: Mapping[str, Any]) -> str:
    """Both parts, a line a row."""
    parts = []
    for name in ("channels_last", "stacked"):
        keys = list(found[name][0])
        lines = [{key: key for key in keys}, *found[name]]
        parts.append("\n".join("".join(f"{row[key]!s:>18}" for key in keys).rstrip() for row in lines))
    return "\n\n".join(parts)


def main() -> None:
    """Print the figures, store them, and put them on the page."""
    torch.set_num_threads(1)
    found = {
        "channels_last": [row for net in nets()[:2] for row in channels_last(net)],
        "stacked": [stacked(net, net.sizes[-1], count) for net in nets() for count in STACKS],
        "setting": {"torch": torch.__version__, "threads": 1, "turns": TURNS},
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    put("formats", table(found), PAGE)


if __name__ == "__main__":
    main()
