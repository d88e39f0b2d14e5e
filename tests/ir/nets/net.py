"""A random network: steps over a list of live values, each made by one kind of op with a random number of its own.

Taking a step away leaves the choices of the others as they were, so that a failing network can be shrunk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

SIZE = (8, 4)
"""Height and width of the image inputs."""
WIDTHS = (4, 5, 6, 8, 12)


@dataclass(frozen=True)
class Live:
    """Where a value is among the live ones. map: [N, c, h, w]; seq: [N, h, c]; vec: [N, c]."""

    form: str
    c: int
    h: int = 1
    w: int = 1
    at: int = -1

    def sized(self, **changes: Any) -> Live:
        return replace(self, **changes)

    def shape(self, batch: int) -> tuple[int, ...]:
        return (batch, *{"map": (self.c, self.h, self.w), "seq": (self.h, self.c), "vec": (self.c,)}[self.form])

    @property
    def area(self) -> int:
        return self.h * self.w


class Step(NamedTuple):
    kind: str
    run: Callable[..., Any]
    reads: tuple[int, ...]


class Recipe(NamedTuple):
    """A network in words: its own number, then the kinds of its steps, each with its number."""

    salt: int
    ops: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return "; ".join([str(self.salt), *(f"{kind} / {salt}" for kind, salt in self.ops)])

    @classmethod
    def parse(cls, text: str) -> Recipe:
        salt, *ops = text.split(";")
        pairs = (op.rsplit("/", 1) for op in ops)
        return cls(int(salt), tuple((kind.strip(), int(number)) for kind, number in pairs))


Kind = Callable[["Net"], Any]


class Net(nn.Module):
    """Built step by step by the kinds of a recipe; every value that no step reads goes to a head of its own."""

    def __init__(self, recipe: Recipe, kinds: Mapping[str, Kind], finish: Callable[[Net], Callable[..., Any]]) -> None:
        super().__init__()
        self.rng, self.kind = random.Random(recipe.salt), "conv"
        self.parts = nn.ModuleList()
        self.steps: list[Step] = []
        self.consumed: set[int] = set()
        self.trail: deque[tuple[str, list[str]]] = deque()
        self.marked: list[str] = []
        second = self.rng.choice([None, None, Live("map", 4, *SIZE, 1), Live("vec", 6, at=1)])
        self.inputs = [Live("map", 3, *SIZE, 0)] + ([second] if second is not None else [])
        self.values = list(self.inputs)
        self.conv(self.inputs[0])
        for kind, salt in recipe.ops:
            self.rng = random.Random(salt)
            self.kind = kind
            kinds[kind](self)
        self.rng, self.kind = random.Random(recipe.salt), "head"
        self.finish = finish(self)

    def forward(self, *inputs: Tensor) -> Any:
        live: list[Any] = list(inputs)
        if isinstance(inputs[0], fx.Proxy):
            self.trail.clear()  # the tracer puts attributes and lists back as they were; a deque it leaves alone
        for step in self.steps:
            marked: list[str] = []
            self.marked = marked
            read = [live[at] for at in step.reads]
            live.append(step.run(*read))
            if isinstance(live[-1], fx.Proxy):
                self.trail.append((step.kind, _names(read) + (marked or _names(live[-1:]))))
        return self.finish(live)

    def seen(self, value: Any) -> Any:
        """Marks what the step is about, in place of its result: a free channel in it has passed the op."""
        self.marked += _names([value])
        return value

    # --- what kinds build with

    def add(self, module: nn.Module) -> nn.Module:
        self.parts.append(module)
        return module

    def param(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Callable[[], Tensor]:
        """A bare parameter; the call reads it as `self.name`."""
        name = f"p{len(self._parameters)}"
        self.register_parameter(name, nn.Parameter(torch.randn(shape) * std + mean))
        return lambda: getattr(self, name)

    def buffer(self, value: Tensor) -> Callable[[], Tensor]:
        name = f"b{len(self._buffers)}"
        self.register_buffer(name, value)
        return lambda: getattr(self, name)

    def push(self, run: Callable[..., Any], reads: Live | Sequence[Live], like: Live, kind: str = "") -> Live:
        """One step; `like` says what its result is."""
        reads = (reads,) if isinstance(reads, Live) else tuple(reads)
        made = like.sized(at=len(self.values))
        self.steps.append(Step(kind or self.kind, run, tuple(r.at for r in reads)))
        self.consumed.update(r.at for r in reads)
        self.values.append(made)
        return made

    def measure(self) -> None:
        """Set the size of the last value, a map, from what its step returns."""
        with torch.no_grad():
            made = self.steps[-1].run(*(torch.zeros(self.values[at].shape(2)) for at in self.steps[-1].reads))
        self.values[-1] = self.values[-1].sized(c=made.shape[1], h=made.shape[2], w=made.shape[3])

    def below(self, limit: int) -> int:
        return self.rng.randrange(max(1, limit))

    def of(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def width(self, multiple: int = 1) -> int:
        wide = self.rng.choice(WIDTHS)
        return max(multiple, wide - wide % multiple)

    def act(self) -> Callable[[Tensor], Tensor]:
        """Half of them map 0 to 0, half do not; none silences a unit."""
        made: Callable[[Tensor], Tensor] = self.of(
            *(F.leaky_relu, F.silu, F.gelu, torch.tanh, torch.sigmoid, F.hardswish, F.softplus, nn.ELU(), nn.Mish()),
            *(lambda t: t.relu() + 0.1 * t, lambda t: t.clamp(-1, 1), lambda t: t.abs(), lambda t: F.relu6(t + 1)),
        )
        return self.add(made) if isinstance(made, nn.Module) else made

    def conv(self, x: Live, width: int = 0, stride: int = 1, kind: str = "conv") -> Live:
        """3x3 convolution, sometimes BatchNorm, activation."""
        width = width or self.width()
        layer = self.add(nn.Conv2d(x.c, width, 3, stride, 1, bias=bool(self.below(2))))
        norm = None if self.below(3) else self.add(nn.BatchNorm2d(width))
        act = self.act()

        def run(t: Tensor) -> Tensor:
            y = layer(t)
            return act(y if norm is None else norm(y))

        h, w = -(-x.h // stride), -(-x.w // stride)
        return self.push(run, x, Live("map", width, h, w), kind)

    def _pick(self, form: str, first: int = 0) -> Live | None:
        found = [v for v in self.values[first:] if v.form == form]
        if not found:
            return None
        return found[-1] if self.below(10) < 7 else self.rng.choice(found[-4:])

    def map(
        self, multiple: int = 1, most: int = 16, even: bool = False, small: bool = False, own: bool = False
    ) -> Live:
        """A live [N, c, h, w] with c a multiple, at most `most`; `own`: made by a convolution just for the step."""
        x = self._pick("map") or self.inputs[0]
        if x.h % 2 or x.w % 2:
            x = self.inputs[0]
        stride = 2 if small and x.h > 4 else 1
        if even and (x.h // stride < 2 or x.w // stride < 2 or (x.w // stride) % 2):
            x, stride = self.inputs[0], 2 if small else 1
        if stride > 1 or x.c % multiple or not 2 <= x.c <= most or (x.at == 0 and self.below(8)):
            return self.conv(x, self.width(multiple), stride)
        return x

    def like(self, x: Live) -> Live:
        """Another value of the same shape: a live one, or a convolution of `x`."""
        shape = (x.form, x.c, x.h, x.w)
        found = [v for v in self.values if (v.form, v.c, v.h, v.w) == shape and v.at != x.at]
        if found and self.below(2):
            return self.rng.choice(found)
        return self.conv(x, x.c)

    def seq(self, multiple: int = 1) -> Live:
        """A live [N, l, c], channels last, or a map made into one."""
        x = self._pick("seq", len(self.inputs))
        if x is not None and x.c <= 16 and x.c % multiple == 0:
            return x
        y = self.map(multiple, small=True)
        return self.push(lambda t: t.flatten(2).transpose(1, 2), y, Live("seq", y.c, y.area), "map to sequence")

    def vec(self, multiple: int = 1) -> Live:
        """A live [N, c], or a map reduced to one; the mean alone would be constant after an InstanceNorm."""
        x = self._pick("vec")
        if x is not None and x.c <= 24 and x.c % multiple == 0:
            return x
        y = self.map(multiple)
        return self.push(lambda t: t.mean((2, 3)) + t.amax((2, 3)) / 2, y, Live("vec", y.c), "mean over space")


def _names(values: Sequence[Any]) -> list[str]:
    return [v.node.name for v in values if isinstance(v, fx.Proxy)]
