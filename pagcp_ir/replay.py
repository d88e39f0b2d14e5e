"""A plan and the original network give the cut network again, bit by bit, without data.

cut network = the slices that the plan keeps, with the `amended` tensors in place of theirs: what compensation made of
biases and running means, and in rounds what training made of weights. The figures of the plan are derived anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.compensate import described
from pagcp_ir.copying import copy_with
from pagcp_ir.cost import costs
from pagcp_ir.planning import fingerprint, keep_of, legal, make_plan
from pagcp_ir.program import Program
from pagcp_ir.rewrite import materialise
from pagcp_ir.verify import Verification, require_exact, verify
from specs.diagnostics import Diagnostic, PlanError
from specs.plan import Plan

__all__ = ["amendments", "replay", "require_same_network"]


def amendments(cut: Program, made: Program) -> dict[str, Tensor]:
    """The tensors of `made` that `cut`, the plain slices, lacks or has with other bits."""
    plain = cut.tensors()
    return {name: t for name, t in made.tensors().items() if name not in plain or not _same_bits(t, plain[name])}


def replay(
    program: Program, channels: ChannelGraph, plan: Plan, amended: Mapping[str, Tensor], where: str = ""
) -> tuple[Program, Verification]:
    """The cut network of the plan, and how exact its slices are. `program` and `channels` are the original ones.

    PlanError, at `where`: L804 for another network, L805 or L806 for cuts that do not fit it, L807 for tensors that
    are not those that the plan names, L808 for figures that are not those of its cuts. VerifyError as in a compile.
    """
    require_same_network(fingerprint(program), plan, where)
    keep = keep_of(channels, plan)
    if not legal(channels, keep):
        raise PlanError.one("L805", "the plan cuts what this network has pinned, or all of an axis", where)
    cut = materialise(program, channels, keep)
    found = verify(program, channels, keep, cut)
    require_exact(found)
    made = _amended(cut, plan, amended, where)
    _require_figures(program, channels, keep, plan, made, where)
    return made, found


def require_same_network(found: str, plan: Plan, where: str = "") -> None:
    """PlanError L804 unless the plan was made for the network of this fingerprint: these bits, this code."""
    if found != plan.fingerprint:
        told = f"the plan was made for another network: its fingerprint is {plan.fingerprint}, this one's is {found}"
        hint = "a weight or the code differs; `apply_plan` of the Python API cuts a model of yours by any plan"
        raise PlanError.one("L804", told, where, hint)


def _amended(cut: Program, plan: Plan, amended: Mapping[str, Tensor], where: str) -> Program:
    if tuple(sorted(amended)) != plan.amended:
        wrong = sorted({*amended} ^ {*plan.amended})[0]
        has = "is not named" if wrong in amended else "is not there"
        raise PlanError.one("L807", f"the tensors beside the plan are not those that it names: `{wrong}` {has}", where)
    tensors, replaced, new = cut.tensors(), dict[int, Tensor](), dict[str, Tensor]()
    for name, value in amended.items():
        old = tensors.get(name)
        if old is None:
            new[name] = value
        elif old.shape != value.shape or old.dtype != value.dtype:
            told = f"`{name}` is {_told(value)} beside the plan, {_told(old)} in the network"
            raise PlanError.one("L807", told, where)
        else:
            replaced[id(old)] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    module = copy_with(cut.module, replaced)
    for name, value in new.items():
        _give_bias(module, name, value, where)
    return replace(cut, module=module)


def _give_bias(module: nn.Module, name: str, value: Tensor, where: str) -> None:
    """What compensation gives a layer that had none, in front of no BatchNorm."""
    path, _, last = name.rpartition(".")
    layer: Any = dict(module.named_modules()).get(path)
    if last != "bias" or getattr(layer, "bias", value) is not None:
        raise PlanError.one("L807", f"`{name}` is beside the plan, and the network has no place for it", where)
    layer.bias = nn.Parameter(value, requires_grad=layer.weight.requires_grad)


def _require_figures(
    program: Program, channels: ChannelGraph, keep: Keep, plan: Plan, made: Program, where: str
) -> None:
    found = make_plan(program, channels, keep)
    after = costs(described(made, channels.restrict(keep)))
    if found.tensors != plan.tensors:
        wrong = sorted(
            name for name in {*found.tensors, *plan.tensors} if found.tensors.get(name) != plan.tensors.get(name)
        )
        raise PlanError.one("L806", f"the plan keeps other indices of `{wrong[0]}` than its cuts ask for", where)
    pairs = {
        "costs.before": (plan.before, found.before),
        "costs.after": (plan.after, after),
        "layers": (plan.layers, found.layers),
    }
    wrong_ones = [
        Diagnostic("L808", f"{name} is not what the cuts of the plan come to{_difference(*pair)}", where)
        for name, pair in pairs.items()
        if pair[0] != pair[1]
    ]
    if wrong_ones:
        raise PlanError(wrong_ones)


def _difference(said: Any, found: Any) -> str:
    if isinstance(said, tuple):
        rows = [row.name for row in said if row not in found] or [row.name for row in found if row not in said]
        return f": `{rows[0]}`" if rows else ""
    return f": {said} is said, {found} found"


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bytes: NaN equals NaN, and 0 is not -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    left, right = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(left, right)


def _told(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
