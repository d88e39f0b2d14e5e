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
from specs.diagnostics import PlanError
from specs.plan import Plan

__all__ = ["apply_plan"]


def apply_plan(model: nn.Module, plan: Plan, inputs: Sequence[Sequence[int] | TensorSpec]) -> nn.Module:
    """Cut `model`, of the architecture that the plan was made for, in place, and return it; its weights may be others.

    `inputs`: one shape per positional input, batch first. Raises PlanError L805, L806 for a plan of another network,
    TraceError where the model cannot be traced, and VerifyError V503 where its code names what the cut changes (the
    model is left as it was).
    """
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
