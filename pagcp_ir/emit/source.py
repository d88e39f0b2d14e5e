"""The text of model.py: a docstring, one class, and `load`; it needs torch and the standard library."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pagcp_ir.emit.base import About
from pagcp_ir.emit.constructors import constructor
from pagcp_ir.emit.expressions import Expressions
from pagcp_ir.emit.forward import Forward, Statement, plan_forward
from pagcp_ir.emit.layout import WIDTH, Bracket, Doc, call, lines
from pagcp_ir.emit.literals import Unprintable, literal
from pagcp_ir.emit.structure import Scope, Structure, structure_of
from specs.diagnostics import Diagnostic, EmitError

__all__ = ["SAFETENSORS_DTYPES", "Source", "class_name", "source_of"]

SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_BLOCK = '''class Block(nn.Module):
    """Sub-modules under their names."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
'''

_LOAD = '''def load(path: str | Path = Path(__file__).with_name("{weights}")) -> {name}:
    """The network with its trained weights, in eval mode; call `.train()` to tune it further."""
    model = {name}()
    model.load_state_dict(read_safetensors(path))
    return model.eval()


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name: eight bytes of header length, a JSON header, then the data."""
    dtypes = {dtypes}
    file = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    data = torch.frombuffer(file, dtype=torch.uint8)[start:]
    header.pop("__metadata__", None)
    tensors = {{}}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = data[begin:end].clone().view(dtypes[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors
'''


@dataclass(frozen=True)
class Source:
    """The text and the name of its class."""

    text: str
    name: str


def source_of(
    module: fx.GraphModule, about: About, signature: Sequence[str], output: Any, weights: str
) -> Source:
    """Print `module`. `signature`: lines on inputs and outputs; `output`: an example; `weights`: the file's name.

    Raises EmitError E601, E602 or E603, one diagnostic for everything that cannot be printed.
    """
    return _Writer(module, about, signature, output, weights).source()


def class_name(module: fx.GraphModule) -> str:
    """The original's class, as an identifier that nothing else in the file has."""
    name = re.sub(r"\W", "", type(module).__name__)
    if not name.isidentifier() or name in ("GraphModule", "Module"):
        return "Model"
    return f"{name}Model" if name in ("Block", "Path", "F") else name


class _Writer:
    def __init__(
        self, module: fx.GraphModule, about: About, signature: Sequence[str], output: Any, weights: str
    ) -> None:
        self.module, self.about, self.signature, self.weights = module, about, tuple(signature), weights
        self.annotation = annotation(output)
        self.name = class_name(module)
        self.structure: Structure = structure_of(module)
        self.problems: list[Diagnostic] = []

    def source(self) -> Source:
        constructor_lines = list(self._constructor())
        forward_lines = list(self._forward())
        if self.problems:
            raise EmitError(self.problems)
        base = {"list": "nn.ModuleList", "dict": "nn.ModuleDict"}.get(self.structure.root.kind, "nn.Module")
        summary = _clean(self.about.title)
        body = [
            f"class {self.name}({base}):",
            f'    """{summary}"""',
            "",
            "    def __init__(self) -> None:",
            *constructor_lines,
            "",
            *forward_lines,
        ]
        parts = ["\n".join(body) + "\n", self._load()]
        if any(
            line.lstrip().startswith(("Block(", "Block,")) or "Block(" in line for line in constructor_lines
        ):
            parts.insert(0, _BLOCK)
        code = "\n\n".join(parts)
        return Source(f"{self._docstring()}\n{_imports(code)}\n\n\n{code}", self.name)

    def _docstring(self) -> str:
        text = [_clean(self.about.title), "", *self.signature, ""]
        if self.about.lines:
            text += [*(_clean(line) for line in self.about.lines), ""]
        wrapped = [w for line in text for w in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""]]
        return '"""' + "\n".join(wrapped).rstrip() + '\n"""\n'

    def _load(self) -> str:
        used = {t.dtype for t in [*self.module.parameters(), *self.module.buffers()]}
        for dtype in sorted(used - set(SAFETENSORS_DTYPES), key=str):
            self._refuse("E603", f"tensors of type {dtype} cannot be stored in safetensors")
        names = {SAFETENSORS_DTYPES[d]: str(d) for d in SAFETENSORS_DTYPES if d in used}
        table = Bracket("{", tuple((literal(k), ": ", v) for k, v in names.items()), "}")
        text = "\n".join(lines(("dtypes = ", table), 4)).strip().removeprefix("dtypes = ")
        return _LOAD.format(weights=self.weights, name=self.name, dtypes=text)

    def _refuse(self, code: str, message: str, where: str = "", hint: str = "") -> None:
        self.problems.append(Diagnostic(code, message, where, hint))

    # __init__

    def _constructor(self) -> Iterator[str]:
        root = self.structure.root
        if root.kind in ("list", "dict"):
            yield from lines(("super().__init__", Bracket("(", (self._children(root),), ")")), 8)
        else:
            yield "        super().__init__()"
            for name, child in root.ordered():
                yield from lines((f"self.{name} = ", self._scope(child)), 8)
        for scope in root.walk():
            if not scope.parameter_list:
                for tensor in scope.tensors:
                    yield from self._tensor(f"{scope.path}.{tensor}" if scope.path else tensor)
        yield from self._ties()
        yield from self._frozen()

    def _scope(self, scope: Scope) -> Doc:
        if scope.leaf:
            return self._leaf(scope.path)
        if scope.parameter_list:
            names = sorted(scope.tensors, key=int)
            values = tuple(_zeros(self._get(f"{scope.path}.{n}")) for n in names)
            return call("nn.ParameterList", [Bracket("[", values, "]")])
        if scope.path in self.structure.sequential:
            return call("nn.Sequential", [self._scope(child) for _, child in scope.ordered()])
        if scope.kind == "block":
            return call("Block", [(f"{name}=", self._scope(child)) for name, child in scope.ordered()])
        return call("nn.ModuleList" if scope.kind == "list" else "nn.ModuleDict", [self._children(scope)])

    def _children(self, scope: Scope) -> Doc:
        if scope.kind == "list":
            return Bracket("[", tuple(self._scope(child) for _, child in scope.ordered()), "]")
        items = tuple((literal(name), ": ", self._scope(child)) for name, child in scope.ordered())
        return Bracket("{", items, "}")

    def _leaf(self, path: str) -> Doc:
        try:
            return constructor(self.module.get_submodule(path))
        except Unprintable as reason:
            where = next((_where(n) for n in self.module.graph.nodes if n.target == path), "")
            hint = "model.pt2 and model.onnx do not need its source; or write it with modules of torch.nn"
            self._refuse("E601", f"module {path} cannot be written as source: {reason}", where, hint)
            return "None"

    def _tensor(self, path: str) -> Iterator[str]:
        owner, _, name = path.rpartition(".")
        value = self._get(path)
        target = self.structure.text(owner) if owner else "self"
        if not isinstance(value, nn.Parameter):
            yield from lines(
                (f"{target}.register_buffer", Bracket("(", (literal(name), _empty(value)), ")")), 8
            )
        elif name.isidentifier():
            yield from lines((f"{target}.{name} = ", _zeros(value)), 8)
        else:
            args = (literal(name), _zeros(value))
            yield from lines((f"{target}.register_parameter", Bracket("(", args, ")")), 8)

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

    # forward

    def _forward(self) -> Iterator[str]:
        plan = plan_forward(self.module.graph, self.structure.runs)
        folded = {run.nodes[-1]: (path, run.argument) for path, run in self.structure.runs.items()}
        printer = Expressions(self.structure.text, folded, plan.names)
        arguments: list[Doc] = ["self", *(f"{name}: torch.Tensor" for name in plan.arguments)]
        yield from lines(("def forward", Bracket("(", tuple(arguments), ")"), f" -> {self.annotation}:"), 4)
        for statement in plan.statements:
            yield from self._statement(printer, plan, statement)
        output = next(n for n in self.module.graph.nodes if n.op == "output")
        yield from self._line(output, lambda: ("return ", printer.value(_plain(output.args[0]))))

    def _statement(self, printer: Expressions, plan: Forward, statement: Statement) -> Iterator[str]:
        targets = ", ".join("_" if t is None else plan.names[t] for t in statement.targets)
        left = f"{targets} = " if targets else ""
        yield from self._line(statement.node, lambda: (left, printer.node(statement.node)[0]))

    def _line(self, node: fx.Node, text: Any) -> list[str]:
        try:
            return lines(text(), 8)
        except Unprintable as reason:
            self._refuse("E602", f"{node.name} cannot be written as source: {reason}", _where(node))
            return []


def _plain(output: Any) -> Any:
    """A named tuple of the user's becomes a tuple, any mapping a dict."""
    if isinstance(output, Mapping):
        return {k: _plain(v) for k, v in output.items()}
    if isinstance(output, (tuple, list)):
        items = [_plain(v) for v in output]
        return items if isinstance(output, list) else tuple(items)
    return output


def annotation(output: Any) -> str:
    """The return type of `forward`."""
    if isinstance(output, Tensor):
        return "torch.Tensor"
    if output is None:
        return "None"
    if isinstance(output, Mapping):
        kinds = {annotation(v) for v in output.values()}
        return f"dict[str, {kinds.pop() if len(kinds) == 1 else 'object'}]"
    if isinstance(output, (tuple, list)) and output:
        inner = [annotation(v) for v in output]
        if isinstance(output, list):
            return f"list[{inner[0] if len(set(inner)) == 1 else 'object'}]"
        return (
            f"tuple[{inner[0]}, ...]"
            if len(set(inner)) == 1 and len(inner) > 3
            else f"tuple[{', '.join(inner)}]"
        )
    return "object"


def _zeros(value: Tensor) -> Doc:
    return call("nn.Parameter", [_empty(value)])


def _empty(value: Tensor) -> Doc:
    shape = literal(tuple(value.shape))
    dtype: list[Doc] = [] if value.dtype is torch.float32 else [f"dtype={value.dtype}"]
    return call("torch.zeros", [shape, *dtype])


def _where(node: fx.Node) -> str:
    return str(node.meta.get("where", ""))


def _clean(text: str) -> str:
    """Safe inside a docstring."""
    return " ".join(text.split()).replace("\\", "/").replace('"""', "'''").rstrip('"')


def _imports(code: str) -> str:
    standard = ["import json", *(f"import {m}" for m in ("math", "operator") if re.search(rf"\b{m}\.", code))]
    third = ["import torch", *(["import torch.nn.functional as F"] if re.search(r"\bF\.", code) else [])]
    return "\n".join([*standard, "from pathlib import Path", "", *third, "from torch import nn"])
