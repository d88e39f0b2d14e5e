"""From the spec's `model` part to a traced program and its channel graph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pagcp_cli.weights import load_weights
from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.trace import trace
from passes.callables import call, resolve
from passes.seeding import borrowed_rng
from specs.diagnostics import DataError, SpecError
from specs.spec import Spec

__all__ = ["open_network", "weights_file"]


def open_network(spec: Spec) -> tuple[Program, ChannelGraph]:
    """Build, load, trace and analyse the network of the spec.

    Raises SpecError S108 (program), DataError D70x (factory), TraceError T2xx (weights, tracing), GraphError (protect).
    """
    with borrowed_rng(spec.seed):
        model = _built(spec)
    if spec.model.adapter:
        model = _made(spec, spec.model.adapter, "adapter", model=model)
    program = trace(model, [TensorSpec(tuple(i.shape), getattr(torch, i.dtype)) for i in spec.model.inputs])
    return program, analyse(program, spec.model.protect)


def weights_file(spec: Spec) -> Path | None:
    """The file that the trained tensors come from."""
    return None if spec.model.weights is None else spec.resolve(spec.model.weights)


def _built(spec: Spec) -> nn.Module:
    if spec.model.factory is None:
        where, hint = spec.where("model.program"), "give a factory and weights"
        raise SpecError.one("S108", "model.program is not available in this version", where, hint)
    model = _made(spec, spec.model.factory, "factory", **dict(spec.model.args))
    path = weights_file(spec)
    if path is not None:
        load_weights(model, path, spec.where("model.weights"))
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
