"""Contraction law: products summed over an axis without weights (matmul, einsum, attention).

The contracted axes are tied. A unit may go only if its product is zero in the masked network: on at least one side
every op since the producer maps 0 to 0 (relu yes, sigmoid no), so that zeroing the producer is removing the unit.
Axes that all operands and the result share (heads, batch) keep equal counts: channels lie on the other axes.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pagcp_ir.labels import RawLayer, spread, tied_across, varying
from pagcp_ir.site import Site, opaque

__all__ = ["attention", "einsum", "matmul"]

Operand = tuple[Tensor, str]


def matmul(site: Site) -> Any:
    """`a @ b`, torch.matmul, torch.bmm on activations: [..., m, k] x [..., k, n]."""
    second = "mat2" if "mat2" in site.kwargs else "other"
    a, b = site.as_labels(site.arg(0, "input")), site.as_labels(site.arg(1, second))
    if a.ndim < 2 or b.ndim < 2:
        return opaque(site)
    lead = string.ascii_uppercase[: max(a.ndim, b.ndim) - 2]
    left, right = lead[len(lead) - a.ndim + 2 :] + "mk", lead[len(lead) - b.ndim + 2 :] + "kn"
    return contract(site, [(a, left), (b, right)], lead + "mn", _clean_sides(site, 2))


def einsum(site: Site) -> Any:
    """torch.einsum with an explicit equation and activations as operands."""
    equation, *operands = site.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "..." in equation or "->" not in equation:
        return opaque(site)
    inputs, output = equation.replace(" ", "").split("->")
    terms = inputs.split(",")
    if len(terms) != len(operands) or any(len(set(t)) != len(t) for t in terms):
        return opaque(site)
    values = [(site.as_labels(o), t) for o, t in zip(operands, terms, strict=True)]
    return contract(site, values, output, _clean_sides(site, len(terms)))


def attention(site: Site) -> Any:
    """F.scaled_dot_product_attention: softmax(q k^T) v, heads and positions untouched."""
    q, k, v = (site.as_labels(site.arg(i, n)) for i, n in enumerate(("query", "key", "value")))
    mask = site.arg(3, "attn_mask", None)
    if q.ndim != k.ndim or q.ndim != v.ndim:
        return opaque(site)
    if mask is not None:
        site.labels.pin(site.as_labels(mask), f"the mask of `{site.labels.op}`")
    lead = string.ascii_uppercase[: q.ndim - 2]
    shape = (*q.shape[:-1], k.shape[-2])
    weights = contract(site, [(q, lead + "mk"), (k, lead + "nk")], lead + "mn", _clean_sides(site, 2), shape)
    site.labels.pin(weights, f"`{site.labels.op}` runs over the channels")
    weights = site.labels.fixed(shape, f"the weights of `{site.labels.op}`")
    return contract(site, [(weights, lead + "mn"), (v, lead + "nk")], lead + "mk", [True, True])


def _clean_sides(site: Site, count: int) -> list[bool]:
    nodes = site.node.all_input_nodes
    return [nodes[i].name in site.labels.clean for i in range(min(count, len(nodes)))]


def contract(
    site: Site, operands: Sequence[Operand], output: str, clean: Sequence[bool], shape: tuple[int, ...] | None = None
) -> Any:
    """Tie what is contracted; the result's channels lie where one operand's own axis has them."""
    shape = site.shape if shape is None else shape
    shared = {letter for letter in output if all(letter in term for _, term in operands)}
    shared |= {letter for letter in output if letter.isupper()}
    placed = [(_one_axis(site, value, term, shared), term) for value, term in operands]
    found = _by_letter(site, placed)
    summed = {k: v for k, v in found.items() if k not in output}
    kept = {k: v for k, v in found.items() if k in output}
    for letter, vectors in summed.items():
        if any(ok and letter in term for ok, (_, term) in zip(clean, operands, strict=False)):
            site.labels.contracted.append(vectors)
        else:
            site.labels.pin(vectors, f"summed by `{site.labels.op}` after an op that does not map 0 to 0")
    _cost(site, placed, output, summed, kept)
    if len(kept) > 1:
        for vector in kept.values():
            site.labels.pin(vector, f"meets other channels in the outer `{site.labels.op}`")
    if len(kept) != 1:
        return site.labels.fixed(shape, f"the result of `{site.labels.op}`")
    letter, vector = next(iter(kept.items()))
    return spread(vector, output.index(letter), shape)


def _one_axis(site: Site, value: Tensor, term: str, shared: set[str]) -> Tensor:
    """Channels lie on one axis of its own; on an axis that all share (heads) they keep equal counts."""
    value, free = tied_across(site.labels, value, [d for d in varying(value) if term[d] in shared])
    if not free:
        site.labels.pin(value, f"`{site.labels.op}` runs along the channels")
        return site.labels.fixed(tuple(value.shape), f"the input of `{site.labels.op}`")
    axes = varying(value)
    if len(axes) > 1:
        longest = max(axes, key=lambda d: (value.shape[d], d))
        value, _ = tied_across(site.labels, value, [d for d in axes if d != longest])
    return value


def _by_letter(site: Site, operands: Sequence[Operand]) -> dict[str, Tensor]:
    """The channel vector of every letter along which an operand varies, tied between operands."""
    found: dict[str, Tensor] = {}
    for value, term in operands:
        for axis in varying(value):
            vector = value[tuple(slice(None) if d == axis else 0 for d in range(value.ndim))]
            found.setdefault(term[axis], vector)
    for letter, vector in found.items():
        for value, term in operands:
            if letter in term:
                axis = term.index(letter)
                site.labels.tie(vector, value[tuple(slice(None) if d == axis else 0 for d in range(value.ndim))])
    return found


def _cost(
    site: Site, operands: Sequence[Operand], output: str, summed: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> None:
    sizes = {letter: size for value, term in operands for letter, size in zip(term, value.shape, strict=True)}
    one = site.labels.fixed((1,), "one")
    inputs = next(iter(summed.values()), one)
    outputs = next(iter(kept.values()), one)
    counted = {*(list(summed)[:1]), *(list(kept)[:1])}
    first = operands[0][1][0]
    factor = math.prod(size for letter, size in sizes.items() if letter not in counted) // sizes[first]
    site.labels.layers.append(
        RawLayer(site.node.name, site.labels.op, site.node.name, factor, inputs, outputs, False, 1, ())
    )
