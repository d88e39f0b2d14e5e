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

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from pagcp_ir.labels import RawLayer, Ref, spread, tied_across, varying
from pagcp_ir.site import Site, opaque

__all__ = ["attention", "einsum", "matmul"]

Operand = tuple[Tensor, str]


def matmul(site: Site) -> Any:
    """`a @ b`, torch.matmul, torch.bmm, torch.mm: [..., m, k] x [..., k, n]; either may be a parameter."""
    a, b = site.arg(0, "input"), site.arg(1, "mat2" if "mat2" in site.kwargs else "other")
    one, two = len(a.shape), len(b.shape)
    if one < 2 or two < 2:
        return opaque(site)
    lead = string.ascii_uppercase[: max(one, two) - 2]
    left, right = lead[len(lead) - one + 2 :] + "mk", lead[len(lead) - two + 2 :] + "kn"
    return _product(site, [a, b], [left, right], lead + "mn")


def einsum(site: Site) -> Any:
    """torch.einsum; a parameter among the operands is read and makes channels as that of a linear layer does."""
    equation, *operands = site.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    if not isinstance(equation, str):
        return opaque(site)
    terms, output = _terms(equation.replace(" ", ""), [len(o.shape) for o in operands])
    if len(terms) != len(operands) or any(len(set(t)) != len(t) for t in terms):
        return opaque(site)
    return _product(site, operands, terms, output)


def _terms(equation: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every operand and of the output; "..." are upper-case letters, aligned on the right."""
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    rest = [
        ndim - len(term.replace("...", "")) if "..." in term else 0 for term, ndim in zip(terms, ndims, strict=False)
    ]
    lead = string.ascii_uppercase[: max(rest, default=0)]
    terms = [t.replace("...", lead[len(lead) - n :]) for t, n in zip(terms, rest, strict=False)]
    if not arrow:
        letters = "".join(terms)
        output = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in lead))
    return terms, output.replace("...", lead)


def _product(site: Site, operands: Sequence[Tensor | Ref], terms: Sequence[str], output: str) -> Any:
    weights = [i for i, operand in enumerate(operands) if isinstance(operand, Ref)]
    if len(operands) == 2 and len(weights) == 1:
        at = weights[0]
        found = _weighted(site, operands[1 - at], terms[1 - at], operands[at], terms[at], output)
        if found is not None:
            return found
    values = [(site.as_labels(o), t) for o, t in zip(operands, terms, strict=True)]
    return contract(site, values, output, _clean_sides(site, operands))


def _weighted(site: Site, x: Any, term: str, weight: Any, letters: str, output: str) -> Any:
    """A product with a parameter: it reads what is summed and makes what is left, as a linear layer does.

    None where it is not one: axes that both keep, or summed over one alone.
    """
    reads = [c for c in letters if c in term and c not in output]
    makes = [c for c in letters if c in output and c not in term]
    if len(reads) + len(makes) < len(letters) or any(c not in output and c not in reads for c in term):
        return None
    one, sizes = site.labels.fixed((1,), "one"), dict(zip(term + letters, (*x.shape, *weight.shape), strict=False))
    others = [d for d in varying(x) if term[d] not in reads]
    if others and len(others) == len(varying(x)):  # it works on positions: the channels stay where they are
        axis = max(others, key=lambda d: (x.shape[d], d))
        vector = site.labels.along(x, axis, f"`{site.labels.op}` runs along another axis")
        _layer(site, weight, sizes, one, vector)
        return spread(vector, output.index(term[axis]), site.shape)
    x, _ = tied_across(site.labels, x, others)
    for letter in reads:
        site.labels.tie(site.labels.axis(weight, letters.index(letter), "in"), _vector(x, term.index(letter)))
    inputs = max((_vector(x, term.index(c)) for c in reads), key=len, default=one)
    if not makes:
        _layer(site, weight, sizes, inputs, one)
        return site.labels.fixed(site.shape, f"the result of `{site.labels.op}`")
    wide = max(makes, key=lambda c: (sizes[c], letters.index(c)))
    outputs = site.labels.axis(weight, letters.index(wide), "out")
    _layer(site, weight, sizes, inputs, outputs)
    return spread(outputs, output.index(wide), site.shape)


def _layer(site: Site, weight: Ref, sizes: Mapping[str, int], inputs: Tensor, outputs: Tensor) -> None:
    """MACs of one sample: the product of all sizes, over the samples."""
    factor = site.per_sample(math.prod(sizes.values()) // (len(inputs) * len(outputs)))
    name, kind = weight.name, site.labels.op
    site.labels.layers.append(RawLayer(name, kind, site.node.name, factor, inputs, outputs, False, 1, (weight.name,)))


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
    clean = _clean_sides(site, (q, k))
    weights = contract(site, [(q, lead + "mk"), (k, lead + "nk")], lead + "mn", clean, shape)
    site.labels.pin(weights, f"`{site.labels.op}` runs over the channels")
    weights = site.labels.fixed(shape, f"the weights of `{site.labels.op}`")
    return contract(site, [(weights, lead + "mn"), (v, lead + "nk")], lead + "mk", [True, True])


def _clean_sides(site: Site, operands: Sequence[Any]) -> list[bool]:
    """For every operand whether it is 0 wherever its producers' tensors are."""
    nodes = [n for n in pytree.tree_leaves((site.node.args, site.node.kwargs)) if isinstance(n, fx.Node)]
    return [node.name in site.labels.clean for node in nodes[: len(operands)]]


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
    """Channels lie on one axis of its own; on an axis that all share (heads) they keep equal counts.

    A value that varies on shared axes only is multiplied position by position there: its channels stay.
    """
    own, _ = tied_across(site.labels, value, [d for d in varying(value) if term[d] in shared])
    axes = varying(own)
    if len(axes) > 1:
        longest = max(axes, key=lambda d: (own.shape[d], d))
        own, _ = tied_across(site.labels, own, [d for d in axes if d != longest])
    return own


def _by_letter(site: Site, operands: Sequence[Operand]) -> dict[str, Tensor]:
    """The channel vector of every letter along which an operand varies, tied between operands."""
    found: dict[str, Tensor] = {}
    for value, term in operands:
        for axis in varying(value):
            found.setdefault(term[axis], _vector(value, axis))
    for letter, vector in found.items():
        for value, term in operands:
            if letter not in term:
                continue
            other = _vector(value, term.index(letter))
            if len(other) == len(vector):
                site.labels.tie(vector, other)
            else:
                site.labels.pin(other, f"broadcast over other channels in `{site.labels.op}`")
    return found


def _vector(value: Tensor, axis: int) -> Tensor:
    return value[tuple(slice(None) if d == axis else 0 for d in range(value.ndim))]


def _cost(
    site: Site, operands: Sequence[Operand], output: str, summed: Mapping[str, Tensor], kept: Mapping[str, Tensor]
) -> None:
    """What torch multiplies and adds up: letters of one operand alone are summed before, without products."""
    letters = [letter for _, term in operands for letter in term]
    alone = {letter for letter in letters if letter not in output and letters.count(letter) == 1}
    if not set(letters) - set(output) - alone:
        return
    pairs = [pair for value, term in operands for pair in zip(term, value.shape, strict=True) if pair[0] not in alone]
    sizes = {letter: max(size for other, size in pairs if other == letter) for letter, _ in pairs}
    summed = {letter: vector for letter, vector in summed.items() if letter not in alone}
    one = site.labels.fixed((1,), "one")
    inputs = next(iter(summed.values()), one)
    outputs = next(iter(kept.values()), one)
    counted = {*(list(summed)[:1]), *(list(kept)[:1])}
    factor = site.per_sample(math.prod(size for letter, size in sizes.items() if letter not in counted))
    site.labels.layers.append(
        RawLayer(site.node.name, site.labels.op, site.node.name, factor, inputs, outputs, False, 1, ())
    )
