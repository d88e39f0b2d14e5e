"""Cutting a model of the user's own in place: its tensors by the kept ranges, and what its modules say of their sizes.

The code of forward stays what it is. A cut is possible there only where nothing that forward names follows it (see
written.py), and is never taken for right: the outputs are compared with those of the program that was cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pagcp_ir.program import Program
from pagcp_ir.rewrite import set_attributes
from pagcp_ir.verify import TOLERANCE, distance, floats
from specs.diagnostics import PlanError, VerifyError
from specs.plan import Tensors, indices

__all__ = ["cut_in_place", "filled", "require_same_outputs", "tensors_by_name"]

BATCHES = (2, 3)


def tensors_by_name(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    found: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def cut_in_place(module: nn.Module, tensors: Tensors) -> None:
    """Keep these index ranges, by tensor and dim, of the module's tensors, which stay the same objects.

    PlanError L806, and nothing is changed, when the module has no such tensor or a smaller one.
    """
    known = tensors_by_name(module)
    kept = {name: {dim: indices(ranges) for dim, ranges in dims.items()} for name, dims in tensors.items()}
    for name, dims in kept.items():
        if name not in known:
            raise PlanError.one("L806", f"the plan cuts `{name}`, which the model lacks")
        for dim, index in dims.items():
            size = known[name].shape[dim] if dim < known[name].ndim else 0
            if index and index[-1] >= size:
                raise PlanError.one(
                    "L806", f"the plan keeps index {index[-1]} of dim {dim} of `{name}`, which has {size}"
                )
    wide = {id(m) for m in module.modules() if _one_channel_per_group(m)}
    with torch.no_grad():
        for name, dims in kept.items():
            tensor = known[name]
            for dim, index in dims.items():
                tensor.data = tensor.data.index_select(dim, torch.tensor(index, device=tensor.device))
            tensor.grad = None
    for child in module.modules():
        set_attributes(child, depthwise=id(child) in wide)
        _set_normalised(child)


def _one_channel_per_group(module: nn.Module) -> bool:
    """Whether the module's groups go with its channels."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return 1 < module.groups == module.in_channels
    return isinstance(module, nn.GroupNorm) and module.num_groups == module.num_channels


def _set_normalised(module: nn.Module) -> None:
    if isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        if module.num_groups == module.num_channels:
            module.num_groups = module.weight.shape[0]
        module.num_channels = module.weight.shape[0]


def filled(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write values into the module's tensors, by name; a bias that its layer lacks is made. Others are left out."""
    known = tensors_by_name(module)
    modules = dict(module.named_modules())
    with torch.no_grad():
        for name, value in tensors.items():
            path, _, last = name.rpartition(".")
            if name in known:
                known[name].data = value.detach().clone().to(known[name])
            elif last == "bias" and path in modules and getattr(modules[path], "bias", value) is None:
                modules[path].register_parameter("bias", nn.Parameter(value.detach().clone()))


def require_same_outputs(module: nn.Module, program: Program, what: str) -> None:
    """VerifyError V503, beginning with `what`, unless the two give the same in eval mode; it is left in eval mode."""
    module.eval()
    for batch in BATCHES:
        inputs = program.example_inputs(batch)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = floats(program.module(*inputs))
            try:
                got = floats(module(*inputs))
            except Exception as error:
                told = (str(error).strip().splitlines() or [""])[0]
                raise VerifyError.one("V503", f"{what} raises {type(error).__name__}: {told}", hint=_HINT) from error
        worst = distance(got, expected) if len(got) == len(expected) else float("inf")
        if not worst <= TOLERANCE[torch.float32]:
            message = f"{what} differs from the cut network by {worst:.3g} of its output scale"
            raise VerifyError.one("V503", message, hint=_HINT)


_HINT = "its forward may name sizes or write weights in a way that was not seen; please report the network"
