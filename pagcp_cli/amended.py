"""plan.safetensors, beside plan.json: the tensors of the cut network that are more than slices of the original's.

It says which plan it belongs to. A plan that names no such tensors has no such file.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specs.diagnostics import PlanError
from specs.plan import AMENDED, Plan

__all__ = ["plan_digest", "read_amended", "write_amended"]


def plan_digest(plan: Plan) -> str:
    """The hex sha256 of plan.json."""
    return sha256(plan.to_json().encode()).hexdigest()


def write_amended(folder: Path, plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Write the file, if there is anything to write; the names of what was written."""
    if not tensors:
        return ()
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(plain, folder / AMENDED, metadata={"plan": plan_digest(plan)})
    return (AMENDED,)


def read_amended(path: Path, plan: Plan) -> dict[str, Tensor]:
    """The amended tensors of the plan at `path`. PlanError L807 when they are not there, or another plan's."""
    if not plan.amended:
        return {}
    beside = path.with_suffix(".safetensors")
    if not beside.is_file():
        few = ", ".join(f"`{name}`" for name in plan.amended[:3]) + (", ..." if len(plan.amended) > 3 else "")
        told = f"the cut network holds {len(plan.amended)} tensors that are no slices of the original's ({few})"
        hint = f"copy {AMENDED}, which was written beside {path.name}, as {beside.name}"
        raise PlanError.one("L807", f"{told}, and {beside.name} is not there", str(path), hint)
    try:
        with safe_open(beside, framework="pt") as file:
            belongs = (file.metadata() or {}).get("plan")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise PlanError.one("L807", f"it cannot be read: {error}", str(beside)) from error
    if belongs != plan_digest(plan):
        raise PlanError.one("L807", f"it belongs to another plan than {path.name}", str(beside))
    return found
