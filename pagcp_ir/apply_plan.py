"""Apply a plan to a model of your own: its modules and tensors are cut in place, its code stays what it is.

    model = apply_plan(build(), read_plan("out/plan.json"), [[1, 3, 224, 224]])
    model.load_state_dict(load_file("out/model.safetensors"))

Exact or refused: the model is traced, the program is cut to the plan, and both must give the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from pagcp_ir.analyse import analyse
from pagcp_ir.in_place import cut_in_place, require_same_outputs
from pagcp_ir.planning import keep_of, kept_ranges
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace, unwrapped
from specs.diagnostics import PlanError, TraceError
from specs.plan import Plan

__all__ = ["apply_plan"]


def apply_plan(model: nn.Module, plan: Plan, inputs: Sequence[Sequence[int] | TensorSpec] = ()) -> nn.Module:
    """Cut `model`, of the architecture that the plan was made for, in place, and return it; its weights may be others.

    `inputs`: one shape per positional input, batch first; a plan does not hold them. Raises PlanError L802 for what is
    no plan, L805, L806 for a plan of another network, TraceError T203 without shapes and T2xx where the model cannot be
    traced, and VerifyError V503 where its code names what the cut changes (the model is left as it was).
    """
    _require_arguments(model, plan, inputs)
    specs = [given if isinstance(given, TensorSpec) else TensorSpec(tuple(given)) for given in inputs]
    program = trace(model, specs)
    channels = analyse(program)
    keep = keep_of(channels, plan)
    tensors = kept_ranges(channels, keep)
    if tensors != plan.tensors:
        wrong = sorted({*tensors, *plan.tensors} - {n for n in tensors if plan.tensors.get(n) == tensors[n]})
        raise PlanError.one("L806", f"the plan cuts `{wrong[0]}` in another way than this model would be cut")
    cut = materialise(program, channels, keep)
    trial = copy.deepcopy(unwrapped(model))
    cut_in_place(trial, tensors)
    require_same_outputs(trial, cut, "the model, cut in place,")
    cut_in_place(unwrapped(model), tensors)
    return model


def _require_arguments(model: object, plan: object, inputs: object) -> None:
    """What a call by hand gets wrong, told before anything is traced."""
    if not isinstance(model, nn.Module):
        raise TraceError.one("T202", f"apply_plan takes a torch.nn.Module, got a {type(model).__name__}")
    if not isinstance(plan, Plan):
        message = f"apply_plan takes a Plan, got a {type(plan).__name__}"
        raise PlanError.one("L802", message, hint='read it first: read_plan("out/plan.json")')
    shapes = inputs if isinstance(inputs, (list, tuple)) else ()
    if not shapes or not all(isinstance(given, TensorSpec) or _is_shape(given) for given in shapes):
        message = "apply_plan needs the shape of each input of the model, batch first"
        raise TraceError.one("T203", message, hint="apply_plan(model, plan, [[1, 3, 224, 224]])")


def _is_shape(given: object) -> bool:
    return isinstance(given, (list, tuple)) and len(given) > 0 and all(type(size) is int and size > 0 for size in given)
