"""From the spec's `model` part to a traced program and its channel graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pagcp_cli.weights import load_weights
from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.in_place import tensors_by_name
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.program_file import open_program
from pagcp_ir.trace import trace, unwrapped
from pagcp_ir.usable import require_usable
from pagcp_ir.written import pin_written
from passes.callables import UserCode, call, resolve
from passes.seeding import borrowed_rng
from specs.diagnostics import DataError
from specs.options import FinetuneOptions, RepeatOptions
from specs.spec import PassSpec, Spec

__all__ = ["open_network", "user_code", "user_model", "weights_file"]


def open_network(spec: Spec) -> tuple[Program, ChannelGraph]:
    """Build, load, trace and analyse the network of the spec.

    With a trainer of the spec's own, what only rewritten code could lose is pinned.
    Raises DataError D70x (factory), TraceError T2xx (weights, program, tracing), GraphError (protect).
    """
    with borrowed_rng(spec.seed):
        program = _program(spec)
    channels = analyse(program, spec.model.protect)
    if _trains_itself(spec.passes):
        channels = pin_written(program, channels, tensors_by_name(user_model(spec)))
    return program, channels


def user_model(spec: Spec) -> nn.Module:
    """The model that the spec's program was traced from, with its adapter, built anew; not inside a wrapper."""
    with borrowed_rng(spec.seed):
        return unwrapped(_adapted(spec, _built(spec)))


def user_code(spec: Spec) -> UserCode:
    """What the spec brings along for its passes."""
    return UserCode(partial(user_model, spec) if spec.model.factory is not None else None, _folder(spec))


def _trains_itself(steps: Iterable[PassSpec]) -> bool:
    """Whether the spec's own code trains, in rounds too."""
    options = [step.options for step in steps]
    if any(isinstance(each, FinetuneOptions) and each.trainer is not None for each in options):
        return True
    return any(isinstance(each, RepeatOptions) and _trains_itself(each.passes) for each in options)


def weights_file(spec: Spec) -> Path | None:
    """The file that the trained tensors come from: the weights, or the program that holds them."""
    name = spec.model.weights if spec.model.program is None else spec.model.program
    return None if name is None else spec.resolve(name)


def _program(spec: Spec) -> Program:
    inputs = [TensorSpec(tuple(i.shape), getattr(torch, i.dtype)) for i in spec.model.inputs]
    if spec.model.program is None:
        model = _built(spec)
    else:
        path, where = spec.resolve(spec.model.program), spec.where("model.program")
        program = open_program(path, None if spec.model.adapter else inputs, where)
        if not spec.model.adapter:
            return program
        model = program.copy()
    program = trace(_adapted(spec, model), inputs)
    return program if spec.model.program is None else replace(program, route="pt2")


def _adapted(spec: Spec, model: nn.Module) -> nn.Module:
    return _made(spec, spec.model.adapter, "adapter", model=model) if spec.model.adapter else model


def _built(spec: Spec) -> nn.Module:
    assert spec.model.factory is not None
    model = _made(spec, spec.model.factory, "factory", **dict(spec.model.args))
    path, where = weights_file(spec), spec.where("model.factory")
    if path is not None:
        where = spec.where("model.weights")
        load_weights(model, path, where)
    require_usable(model.named_parameters(), model.named_buffers(), where)
    return model


def _made(spec: Spec, name: str, key: str, /, **arguments: object) -> nn.Module:
    where = spec.where(f"model.{key}")
    function = resolve(name, _folder(spec), where)
    # an adapter takes the network as its one positional argument, whatever it calls it
    made = (
        call(lambda: function(arguments["model"]), name, where)
        if key == "adapter"
        else call(function, name, where, **arguments)
    )
    if not isinstance(made, nn.Module):
        raise DataError.one("D702", f"{name} must return a torch.nn.Module, got a {type(made).__name__}", where)
    return made


def _folder(spec: Spec) -> Path:
    return spec.path.parent if spec.path is not None else Path()
