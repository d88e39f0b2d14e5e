"""Kinds that take channels apart and put them together: concat, split, slice, select, index, roll."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ir.nets.net import Kind, Net


def cat_twice(n: Net) -> None:
    x = n.map(most=10)
    n.push(n.of(lambda t: torch.cat([t, t], 1), lambda t: torch.concat((t, t, t), dim=-3)), x, x)
    n.measure()


def cat_input(n: Net) -> None:
    x, image = n.map(), n.inputs[0]

    def run(t: Tensor, i: Tensor) -> Tensor:
        return torch.cat([F.interpolate(i, size=t.shape[2:]), t], 1)

    n.push(run, (x, image), x.sized(c=x.c + image.c))


def cat_nested(n: Net) -> None:
    x = n.map(most=8)
    y = n.like(x)
    inner = n.of(lambda a, b: torch.cat([a, b], 1), lambda a, b: torch.cat((b, a, b), dim=1))
    n.push(lambda a, b: torch.cat([b, inner(a, b), a], 1), (x, y), x)
    n.measure()


def cat_space(n: Net) -> None:
    x = n.map(even=True)
    y = n.of(x, n.like(x))
    dim = n.of(2, 3, -1)
    kernel = (2, 1) if dim == 2 else (1, 2)
    n.push(lambda a, b: F.avg_pool2d(n.seen(torch.cat([a, b], dim)), kernel), (x, y), x)


def chunk(n: Net) -> None:
    x, parts, dim = n.map(), n.of(2, 3), n.of(1, -3)
    n.push(n.of(lambda t: next(iter(t.chunk(parts, dim))), lambda t: torch.chunk(t, parts, dim=dim)[-1]), x, x)
    n.measure()


def chunk_gate(n: Net) -> None:
    x = n.map(multiple=2)

    def run(t: Tensor) -> Tensor:
        a, b = t.chunk(2, dim=1)
        return a * torch.sigmoid(b)

    n.push(run, x, x.sized(c=x.c // 2))


def split_sizes(n: Net) -> None:
    x = n.map()
    first = 1 + n.below(x.c - 2) if x.c > 2 else 1
    sizes = [first, x.c - first] if n.below(2) or x.c - first < 2 else [first, 1, x.c - first - 1]
    layer = n.add(nn.Conv2d(first, first, 3, padding=1))

    def run(t: Tensor) -> Tensor:
        a, *rest = torch.split(t, sizes, 1)
        return torch.cat([layer(a), *reversed(rest)], 1)

    n.push(run, x, x)


def split_number(n: Net) -> None:
    x = n.map()
    size, which = max(1, x.c // n.of(2, 3)), n.of(0, -1)
    n.push(lambda t: t.split(size, dim=1)[which], x, x)
    n.measure()


def tensor_split(n: Net) -> None:
    x = n.map()
    how, which = n.of(2, 3, (1, x.c // 2), (x.c // 2,)), n.of(0, 1)
    n.push(lambda t: torch.tensor_split(t, how, dim=1)[which], x, x)
    n.measure()
    if n.values[-1].c == 0:
        n.values[-1] = x.sized(at=n.values[-1].at)
        n.steps[-1] = n.steps[-1]._replace(run=lambda t: torch.cat(torch.tensor_split(t, how, dim=1), 1))


def unbind_view(n: Net) -> None:
    x = n.map(multiple=2)
    swapped = n.below(2)

    def run(t: Tensor) -> Tensor:
        b, c, h, w = t.shape
        if swapped:
            one, two = t.view(b, c // 2, 2, h, w).unbind(2)
        else:
            one, two = t.reshape(b, 2, c // 2, h, w).unbind(1)
        return one - torch.tanh(two)

    n.push(run, x, x.sized(c=x.c // 2))


def unbind_channels(n: Net) -> None:
    x = n.map()
    n.push(lambda t: torch.stack(list(reversed(t.unbind(1))), 1), x, x)


def stack(n: Net) -> None:
    x = n.map(most=8)
    y = n.like(x)
    how = n.of(
        lambda a, b: torch.stack([a, b], 1).flatten(1, 2),
        lambda a, b: torch.stack((a, b), dim=2).flatten(1, 2),
        lambda a, b: torch.stack([a, b]).sum(0),
        lambda a, b: torch.stack([a, b], -1).amax(-1),
        lambda a, b: torch.stack([a, b, a], 2).mean(2),
    )
    n.push(how, (x, y), x)
    n.measure()


def slices(n: Net) -> None:
    x = n.map()
    c = x.c
    a, b, step = n.below(c // 2), c - n.below(c // 2), n.of(1, 2, 3)
    made = n.of(slice(a, b, step), slice(-b, None), slice(None, -1), slice(a - c, b - c or None, step), slice(a, None))
    how = n.of(
        lambda t: t[:, made],
        lambda t: t[:, made, ...],
        lambda t: t[..., made, :, :],
        lambda t: t[:, : t.shape[1] // 2],
        lambda t: t[:, t.size(1) // 2 :, :],
    )
    n.push(how, x, x)
    n.measure()


def slices_space(n: Net) -> None:
    x = n.map(most=6, even=True)

    def focus(t: Tensor) -> Tensor:
        return torch.cat([t[..., ::2, ::2], t[..., 1::2, ::2], t[..., ::2, 1::2], t[..., 1::2, 1::2]], 1)

    n.push(n.of(focus, lambda t: t[:, :, ::2, ::2], lambda t: t[..., : t.shape[-1] // 2]), x, x)
    n.measure()


def narrow(n: Net) -> None:
    x = n.map()
    start = n.below(x.c - 1)
    length = 1 + n.below(x.c - start)
    n.push(
        n.of(
            lambda t: t.narrow(1, start, length),
            lambda t: torch.narrow(t, 1, start - x.c, length),
            lambda t: t.narrow(dim=1, start=start, length=length),
        ),
        x,
        x.sized(c=length),
    )


def select(n: Net) -> None:
    x, k = n.map(), n.of(0, 1, -1)
    how = n.of(lambda t: t.select(1, k).unsqueeze(1), lambda t: t[:, k, None], lambda t: t[:, k : k + 1 or None])
    n.push(lambda t: t * torch.sigmoid(how(t)), x, x)


def roll(n: Net) -> None:
    x = n.map()
    n.push(n.of(lambda t: torch.roll(t, 1, 2), lambda t: t.roll((1, -1), dims=(2, 3))), x, x)


def roll_channels(n: Net) -> None:
    x = n.map()
    n.push(n.of(lambda t: torch.roll(t, 1, 1), lambda t: t.roll(2, -3)), x, x)


def flip(n: Net) -> None:
    x = n.map()
    n.push(n.of(lambda t: t.flip(1), lambda t: torch.flip(t, (2, 3)), lambda t: t.flip((1, -1))), x, x)


def index(n: Net) -> None:
    """Channels by a list, a buffer or index_select."""
    x = n.map()
    places = [n.below(x.c) for _ in range(n.of(x.c, 3))]
    at = n.buffer(torch.tensor(places))
    how = n.of(
        lambda t: t[:, places],
        lambda t: t[:, at()],
        lambda t: t.index_select(1, at()),
        lambda t: torch.index_select(t, 1, at()),
    )
    n.push(how, x, x.sized(c=len(places)))


MOVES: dict[str, Kind] = {
    "concat with itself": cat_twice,
    "concat with the input": cat_input,
    "nested concat": cat_nested,
    "spatial concat": cat_space,
    "chunk": chunk,
    "chunk and gate": chunk_gate,
    "sized split": split_sizes,
    "split by a number": split_number,
    "tensor_split": tensor_split,
    "unbind of a view": unbind_view,
    "unbind over channels": unbind_channels,
    "stack": stack,
    "slice of channels": slices,
    "slice of space": slices_space,
    "narrow": narrow,
    "select": select,
    "roll in space": roll,
    "roll over channels": roll_channels,
    "flip": flip,
    "index by list": index,
}
