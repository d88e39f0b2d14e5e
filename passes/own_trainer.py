"""finetune.trainer: the user's own code trains the user's own model, which is cut in place for it.

The model of the factory (with its adapter) is built anew, cut, and given the tensors that the program has now; before
it is handed over, and again when it comes back, its outputs must be those of the program that holds the same tensors.
What comes back is kept if it is better on validation than what came (judge.py).
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from pagcp_ir.in_place import cut_in_place, filled, require_same_outputs, tensors_by_name
from pagcp_ir.program import Program
from passes.base import Context, State
from passes.callables import call, resolve
from passes.judge import Judge
from passes.seeding import borrowed_rng
from specs.diagnostics import PassError

__all__ = ["trained_by_user"]


def trained_by_user(name: str, state: State, ctx: Context) -> Program:
    """The state's program with the tensors that `name`, "module:callable", made of it; with its own if they are worse.

    Raises VerifyError V503 where the cut model is not the cut network, DataError D703 what the trainer raises, and
    PassError P412 for a model that comes back with other tensors.
    """
    train = resolve(name, ctx.code.folder)
    began, judge = time.perf_counter(), Judge(ctx, ctx.device)
    before = judge.score(state.program)
    model = cut_model(state, ctx)
    with borrowed_rng(ctx.seed):
        returned = call(lambda: train(model), name)
    model = returned if isinstance(returned, nn.Module) else model
    program = _taken_back(name, model, state.program)
    require_same_outputs(model, program, f"what {name} left of the model")
    after = judge.score(program)
    seconds = round(time.perf_counter() - began, 3)
    better = after > before
    ctx.note("trained", trainer=name, before=before.key[0], score=after.key[0], kept=better, seconds=seconds)
    if not better:
        scores = f"{before.key[0]:.6g} to {after.key[0]:.6g}"
        ctx.note("warning", message=f"what {name} made is dropped: it is no better on validation ({scores})")
    return program if better else state.program


def cut_model(state: State, ctx: Context) -> nn.Module:
    """The user's model, cut to the state's plan, with the tensors of its program, in train mode."""
    if ctx.code.build is None:
        raise PassError.one("P409", "finetune.trainer needs model.factory: it trains the model that the factory builds")
    with borrowed_rng(ctx.seed):
        model = ctx.code.build()
    cut_in_place(model, state.plan.tensors)
    filled(model, state.program.tensors())
    require_same_outputs(model, state.program, "the model, cut in place,")
    return model.train()


def _taken_back(name: str, model: nn.Module, program: Program) -> Program:
    """A copy of the program with the model's tensors, where it has them."""
    known = tensors_by_name(model)
    made = replace(program, module=program.copy())
    with torch.no_grad():
        for key, tensor in made.tensors().items():
            value = known.get(key)
            if value is None and tensor.requires_grad:
                raise PassError.one("P412", f"{name} left no `{key}` in the model")
            if value is not None and value.shape != tensor.shape:
                shapes = f"{list(tensor.shape)} to {list(value.shape)}"
                raise PassError.one("P412", f"{name} changed the shape of `{key}` from {shapes}")
            if value is not None:
                tensor.copy_(value)
    return made
