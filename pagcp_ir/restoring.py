"""Modules without tensors in an exported graph: an op that was all that a torch.nn module did becomes its call again.

torch.export notes the module call that each op came from. Activations, poolings and dropout get their names back, and
train mode means something. Modules with tensors: `lifting.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import fx, nn

__all__ = ["call_of", "restore"]

_KINDS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten, nn.Upsample),
)


def call_of(node: fx.Node) -> tuple[str, str]:
    """Which module call an exported op belongs to, unique to the call, and the module's path."""
    stack = node.meta.get("nn_module_stack")
    return (next(reversed(stack)), next(reversed(stack.values()))[0]) if stack else ("", "")


def restore(source: nn.Module, nodes: Iterable[fx.Node], original: nn.Module) -> None:
    """Turn nodes with `meta["call"]` (`call_of`) into module calls, in place; `source` gets copies of the modules."""
    calls: dict[str, list[fx.Node]] = {}
    modules = dict(original.named_modules(remove_duplicate=False))
    for node in nodes:
        key, path = node.meta.get("call", ("", ""))
        if path in modules:
            calls.setdefault(key, []).append(node)
    for (node,) in (found for found in calls.values() if len(found) == 1):
        path = node.meta["call"][1]
        module = modules[path]
        if type(module) in _KINDS and not _changed(module) and node.all_input_nodes == [node.args[0]]:
            if path not in dict(source.named_modules()):
                source.add_submodule(path, copy.deepcopy(module).eval())  # type: ignore[operator]
            node.op, node.target, node.args, node.kwargs = "call_module", path, node.args[:1], {}


def _changed(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any(hooks) or "forward" in vars(module) or bool(getattr(module, "return_indices", False))
