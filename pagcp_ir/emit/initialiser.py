"""`__init__` of the emitted class: sub-modules, bare parameters and buffers, tied and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx, nn

from pagcp_ir.emit.constructors import constructor
from pagcp_ir.emit.layout import Bracket, Doc, call, lines
from pagcp_ir.emit.literals import Unprintable, literal
from pagcp_ir.emit.structure import Scope, Structure

__all__ = ["Initialiser"]

INDENT = 8


class Initialiser:
    """Prints the constructor's body. `refuse(path, reason)` is called for a module that cannot be printed."""

    def __init__(self, module: fx.GraphModule, structure: Structure, refuse: Callable[[str, str], None]) -> None:
        self.module, self.structure, self.refuse = module, structure, refuse

    def lines(self) -> Iterator[str]:
        root = self.structure.root
        if root.path in self.structure.sequential:
            children = tuple(self._scope(child) for _, child in root.ordered())
            yield from lines(("super().__init__", Bracket("(", children, ")")), INDENT)
        elif root.kind in ("list", "dict"):
            yield from lines(("super().__init__", Bracket("(", (self._children(root),), ")")), INDENT)
        else:
            yield "        super().__init__()"
            for name, child in root.ordered():
                yield from lines((f"self.{name} = ", self._scope(child)), INDENT)
        for scope in root.walk():
            if not scope.holds_parameters:
                for tensor in scope.tensors:
                    yield from self._tensor(f"{scope.path}.{tensor}" if scope.path else tensor)
        yield from self._ties()
        yield from self._frozen()

    def _scope(self, scope: Scope) -> Doc:
        if scope.leaf:
            return self._leaf(scope.path)
        if scope.holds_parameters:
            return self._parameters(scope)
        in_turn = scope.path in self.structure.sequential
        if scope.kind == "block":
            named = [(f"{name}=", self._scope(child)) for name, child in scope.ordered()]
            return call("Chain" if in_turn else "Block", named)
        if in_turn:
            return call("nn.Sequential", [self._scope(child) for _, child in scope.ordered()])
        return call("nn.ModuleList" if scope.kind == "list" else "nn.ModuleDict", [self._children(scope)])

    def _parameters(self, scope: Scope) -> Doc:
        values = {name: _zeros(self._get(f"{scope.path}.{name}")) for name in scope.tensors}
        if scope.numbered:
            ordered = Bracket("[", tuple(values[n] for n in sorted(values, key=int)), "]")
            return call("nn.ParameterList", [ordered])
        items = tuple((literal(name), ": ", value) for name, value in values.items())
        return call("nn.ParameterDict", [Bracket("{", items, "}")])

    def _children(self, scope: Scope) -> Doc:
        if scope.kind == "list":
            return Bracket("[", tuple(self._scope(child) for _, child in scope.ordered()), "]")
        items = tuple((literal(name), ": ", self._scope(child)) for name, child in scope.ordered())
        return Bracket("{", items, "}")

    def _leaf(self, path: str) -> Doc:
        try:
            return constructor(self.module.get_submodule(path))
        except Unprintable as reason:
            self.refuse(path, str(reason))
            return "None"

    def _tensor(self, path: str) -> Iterator[str]:
        owner, _, name = path.rpartition(".")
        value = self._get(path)
        target = self.structure.text(owner) if owner else "self"
        if not isinstance(value, nn.Parameter):
            yield from lines((f"{target}.register_buffer", Bracket("(", (literal(name), _empty(value)), ")")), 8)
        else:
            yield from lines((f"{target}.{name} = ", _zeros(value)), INDENT)

    def _ties(self) -> Iterator[str]:
        first: dict[int, str] = {}
        for path, parameter in self._used_parameters():
            if id(parameter) in first:
                yield f"        {self.structure.text(path)} = {self.structure.text(first[id(parameter)])}"
            else:
                first[id(parameter)] = path

    def _frozen(self) -> Iterator[str]:
        """Parameters that the original does not train; none where it trains nothing at all."""
        used = list(self._used_parameters())
        if any(p.requires_grad for _, p in used):
            for path, parameter in used:
                if not parameter.requires_grad:
                    yield f"        {self.structure.text(path)}.requires_grad_(False)"

    def _used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for scope in self.structure.root.walk():
            prefix = f"{scope.path}." if scope.path else ""
            if scope.leaf:
                leaf = self.module.get_submodule(scope.path)
                for name, parameter in leaf.named_parameters(remove_duplicate=False):
                    yield prefix + name, parameter
            for name in scope.tensors:
                value = self._get(prefix + name)
                if isinstance(value, nn.Parameter):
                    yield prefix + name, value

    def _get(self, path: str) -> Tensor:
        owner, _, name = path.rpartition(".")
        value = getattr(self.module.get_submodule(owner), name)
        assert isinstance(value, Tensor)
        return value


def _zeros(value: Tensor) -> Doc:
    return call("nn.Parameter", [_empty(value)])


def _empty(value: Tensor) -> Doc:
    shape: list[Doc] = [str(size) for size in value.shape] or ["()"]
    dtype: list[Doc] = [] if value.dtype is torch.float32 else [f"dtype={value.dtype}"]
    return call("torch.zeros", [*shape, *dtype])
