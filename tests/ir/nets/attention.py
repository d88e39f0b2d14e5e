"""Kinds on sequences [N, l, c]: attention in its spellings, products of activations, tokens, and back to maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ir.nets.net import Kind, Live, Net


def attention(n: Net) -> None:
    """Queries, keys and values by three layers; heads by static or computed views."""
    x, heads, width = n.seq(), n.of(1, 2), 8
    q, k, v = (n.add(nn.Linear(x.c, width, bias=bool(n.below(2)))) for _ in range(3))
    out, scale = n.add(nn.Linear(width, x.c)), n.of((width // heads) ** -0.5, 0.5)
    bias = n.param(1, heads, x.h, x.h, std=0.3)
    product = n.of(
        F.scaled_dot_product_attention,
        lambda a, b, c: F.scaled_dot_product_attention(a, b, c, attn_mask=bias(), scale=scale),
        lambda a, b, c: ((a * scale) @ b.transpose(-2, -1)).softmax(-1) @ c,
        lambda a, b, c: torch.matmul((torch.matmul(a, b.mT) / a.shape[-1] ** 0.5 + bias()).softmax(-1), c),
        lambda a, b, c: torch.einsum(
            "bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", a, b).mul(scale).softmax(-1), c
        ),
    )

    def split(t: Tensor) -> Tensor:
        return t.view(t.shape[0], -1, heads, width // heads).transpose(1, 2)

    def run(t: Tensor) -> Tensor:
        a, b, c = split(n.seen(q(t))), split(k(t)), split(n.seen(v(t)))
        return t + n.seen(out(product(a, b, c).transpose(1, 2).reshape(t.shape[0], -1, width)))

    n.push(run, x, x)


def attention_packed(n: Net) -> None:
    """Queries, keys and values by one layer: reshape, permute and unbind, or chunk."""
    x, heads = n.seq(2), 2
    qkv, out = n.add(nn.Linear(x.c, 3 * x.c)), n.add(nn.Linear(x.c, x.c))
    d = x.c // heads

    def by_reshape(t: Tensor) -> Tensor:
        b, length, c = t.shape
        q, k, v = n.seen(qkv(t)).reshape(b, length, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
        return _mixed(q, k, v).transpose(1, 2).reshape(b, length, c)

    def by_chunk(t: Tensor) -> Tensor:
        q, k, v = (p.view(t.shape[0], -1, heads, d).transpose(1, 2) for p in n.seen(qkv(t)).chunk(3, dim=-1))
        return _mixed(q, k, v).transpose(1, 2).flatten(2)

    def by_index(t: Tensor) -> Tensor:
        p = n.seen(qkv(t)).view(t.shape[0], -1, 3, x.c)
        return _mixed(p[:, :, 0], p[:, :, 1], p[:, :, 2])

    how = n.of(by_reshape, by_chunk, by_index)
    n.push(lambda t: t + out(how(t)), x, x)


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return weights.softmax(dim=-1) @ v


def multihead(n: Net) -> None:
    x = n.seq(2)
    layer = n.add(nn.MultiheadAttention(x.c, 2, batch_first=True))
    n.push(n.of(lambda t: t + layer(t, t, t)[0], lambda t: t + layer(t, t, t, need_weights=False)[0]), x, x)


def non_local(n: Net) -> None:
    """The block of Wang et al.: products over channels, then over positions."""
    x, c = n.map(small=True), n.width()
    theta, phi, g = (n.add(nn.Conv2d(x.c, c, 1)) for _ in range(3))
    out = n.add(nn.Conv2d(c, x.c, 1))
    clean = n.of(lambda t: t, F.relu, torch.tanh)

    def run(t: Tensor) -> Tensor:
        b, _, h, w = t.shape
        q, k = clean(n.seen(theta(t))).flatten(2).transpose(1, 2), phi(t).view(b, c, -1)
        y = torch.bmm(torch.bmm(q, k).softmax(-1), n.seen(g(t)).flatten(2).transpose(1, 2))
        return t + out(y.transpose(1, 2).reshape(b, -1, h, w))

    n.push(run, x, x)


def einsum(n: Net) -> None:
    x, c = n.map(small=True), n.width()
    one, two, out = n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(1, x.c, 1))

    def over_channels(t: Tensor) -> Tensor:
        return t + out(torch.einsum("bchw,bchw->bhw", n.seen(one(t)), two(t)).unsqueeze(1))

    def over_space(t: Tensor) -> Tensor:
        return t * torch.einsum("bchw,bkhw->bc", t, two(t))[:, :, None, None] / 32

    def gates(t: Tensor) -> Tensor:
        return torch.einsum("nchw,nc->nchw", t, t.mean((2, 3))) + t

    n.push(n.of(over_channels, over_space, gates), x, x)


def after_no_zero(n: Net) -> None:
    """Products over channels after an op that does not map 0 to 0: nothing may be cut."""
    x, c = n.map(small=True), n.width()
    one, two, out = n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(1, x.c, 1))

    def run(t: Tensor) -> Tensor:
        y = torch.einsum("bchw,bchw->bhw", n.seen(torch.sigmoid(one(t))), torch.exp(torch.tanh(two(t))))
        return t + out(y.unsqueeze(1))

    n.push(run, x, x)


def quotient(n: Net) -> None:
    """A product over channels of a quotient: zero over zero says nothing, so that none may be cut."""
    x, c = n.map(small=True), n.width()
    one, two, out = n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(x.c, c, 1)), n.add(nn.Conv2d(1, x.c, 1))

    def run(t: Tensor) -> Tensor:
        y = n.seen(two(t))
        return t + torch.tanh(out(torch.einsum("bchw,bchw->bhw", one(t) / y, y).unsqueeze(1)))

    n.push(run, x, x)


def gram(n: Net) -> None:
    """Attention between channels: they meet one another in the outer product."""
    x = n.map()

    def run(t: Tensor) -> Tensor:
        y = t.flatten(2)
        return ((y @ y.transpose(1, 2) / 8).softmax(-1) @ y).view(t.shape)

    n.push(run, x, x)


def linear_attention(n: Net) -> None:
    """k^T v first: the channels of both meet."""
    x, width = n.seq(), 6
    q, k, v = n.add(nn.Linear(x.c, width)), n.add(nn.Linear(x.c, width)), n.add(nn.Linear(x.c, width))
    out = n.add(nn.Linear(width, x.c))
    n.push(lambda t: t + out(q(t) @ (k(t).transpose(1, 2) @ n.seen(v(t))) / x.h), x, x)


def sequence_mlp(n: Net) -> None:
    x, act = n.seq(), n.act()
    up = n.add(nn.Linear(x.c, 2 * x.c))
    down = n.add(nn.Linear(2 * x.c, x.c))
    n.push(lambda t: t + down(act(n.seen(up(t)))), x, x)


def sequence_to_map(n: Net) -> None:
    x = n.seq()
    h = 2 if x.h % 2 == 0 else 1
    how = n.of(
        lambda t: t.transpose(1, 2).reshape(t.shape[0], t.shape[2], h, -1),
        lambda t: t.permute(0, 2, 1).unflatten(2, (h, -1)),
        lambda t: t.view(t.shape[0], h, -1, x.c).permute(0, 3, 1, 2),
    )
    n.push(how, x, Live("map", x.c, h, x.h // h))


def tokens(n: Net) -> None:
    """A class token before the sequence, and an embedding of positions."""
    x = n.seq()
    token, place = n.param(1, 1, x.c), n.param(1, x.h + 1, x.c, std=0.3)
    how = n.of(
        lambda t: torch.cat([token().expand(t.shape[0], -1, -1), t], 1) + place(),
        lambda t: torch.cat([token().repeat(t.shape[0], 1, 1), t], dim=1),
        lambda t: torch.cat((t.mean(1, keepdim=True), t), 1) + place()[:, : x.h + 1],
    )
    n.push(how, x, x.sized(h=x.h + 1))


def sequence_to_vector(n: Net) -> None:
    x = n.seq()
    how = n.of(lambda t: t.mean(1), lambda t: t[:, 0], lambda t: t.max(dim=1)[0], lambda t: t.flatten(1))
    n.push(how, x, Live("vec", x.c))
    if how(torch.zeros(1, x.h, x.c)).shape[1] != x.c:
        n.values[-1] = Live("vec", x.c * x.h, at=n.values[-1].at)


def vector_to_map(n: Net) -> None:
    """A condition added to every position."""
    v, x = n.vec(), n.map()
    layer = n.add(nn.Linear(v.c, 2 * x.c))

    def film(a: Tensor, t: Tensor) -> Tensor:
        gain, bias = layer(a)[:, :, None, None].chunk(2, dim=1)
        return t * (1 + gain) + bias

    n.push(film, (v, x), x)


def detection_head(n: Net) -> None:
    """Boxes per anchor as in YOLO; the result is a sequence of predictions, read on."""
    x, anchors, k = n.map(), 2, 5
    layer, sizes = n.add(nn.Conv2d(x.c, anchors * k, 1)), n.buffer(torch.rand(1, anchors, 1, 1, 2))
    scaled = bool(n.below(2))

    def run(t: Tensor) -> Tensor:
        b, _, h, w = t.shape
        y = layer(n.seen(t)).view(b, anchors, k, h, w).permute(0, 1, 3, 4, 2).contiguous()
        if scaled:
            y = torch.cat([torch.tanh(y[..., :2]), y[..., 2:4].sigmoid() * sizes(), y[..., 4:]], -1)
        return y.view(b, -1, k)

    n.push(run, x, Live("seq", k, anchors * x.area))


ATTENTION: dict[str, Kind] = {
    "attention": attention,
    "attention, packed": attention_packed,
    "MultiheadAttention": multihead,
    "non-local block": non_local,
    "einsum": einsum,
    "product after an op of no zero": after_no_zero,
    "product of a quotient": quotient,
    "products of channels": gram,
    "linear attention": linear_attention,
    "MLP of a sequence": sequence_mlp,
    "sequence to map": sequence_to_map,
    "tokens": tokens,
    "sequence to vector": sequence_to_vector,
    "vector over a map": vector_to_map,
    "detection head": detection_head,
}
