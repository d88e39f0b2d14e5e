"""The text of model.py: a docstring, one class, and `load`; it needs torch and the standard library."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from pagcp_ir.emit.base import About
from pagcp_ir.emit.expressions import Expressions, is_size
from pagcp_ir.emit.forward import Statement, plan_forward
from pagcp_ir.emit.initialiser import Initialiser
from pagcp_ir.emit.layout import WIDTH, Bracket, lines
from pagcp_ir.emit.literals import Unprintable, literal
from pagcp_ir.emit.names import variable_names
from pagcp_ir.emit.structure import structure_of
from specs.diagnostics import Diagnostic, EmitError

__all__ = ["Source", "source_of"]

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

_HINT = "export pt2 and onnx only, or write this part with modules and functions of torch"

_BLOCK = '''class Block(nn.Module):
    """Sub-modules under their names."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
'''

_CHAIN = '''class Chain(nn.Sequential):
    """Sub-modules under their names, called one after the other."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__(OrderedDict(modules))
'''

_OURS = {"Block": _BLOCK, "Chain": _CHAIN}

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
    module: fx.GraphModule, name: str, about: About, signature: Sequence[str], output: Any, weights: str
) -> Source:
    """Print `module`. `name`: of its class; `signature`: lines on inputs and outputs; `output`: an example.

    `weights`: the file's name. Raises EmitError E601-E603, a diagnostic for each thing that cannot be printed.
    """
    writer = _Writer(module)
    name = _class_name(name)
    body = [
        *writer.head(name, about),
        *writer.initialiser(),
        "",
        *writer.forward(output),
    ]
    load = _LOAD.format(weights=weights, name=name, dtypes=writer.dtypes())
    if writer.problems:
        raise EmitError(writer.problems)
    parts = ["\n".join(body) + "\n", load]
    used = [name for name in _OURS if any(re.search(rf"\b{name}\(", line) for line in body)]
    parts = [*(_OURS[name] for name in used), *parts]
    code = "\n\n".join(parts)
    return Source(f"{_docstring(about, signature)}\n{_imports(code)}\n\n\n{code}", name)


class _Writer:
    """The parts of the class, and what could not be printed."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.structure = structure_of(module)
        self.problems: list[Diagnostic] = []

    def head(self, name: str, about: About) -> list[str]:
        bases = {"list": "nn.ModuleList", "dict": "nn.ModuleDict"}
        base = bases.get(self.structure.root.kind, "nn.Module")
        if "" in self.structure.sequential:
            base = "nn.Sequential"
        docstring = f'    """{_clean(about.title)}"""'
        return [f"class {name}({base}):", docstring, "", "    def __init__(self) -> None:"]

    def initialiser(self) -> list[str]:
        return list(Initialiser(self.module, self.structure, self._refuse_module).lines())

    def forward(self, output: Any) -> list[str]:
        """Planned again, with less written in place, until no statement is too long for its line."""
        apart: set[fx.Node] = set()
        while True:
            plan = plan_forward(self.module, self.structure.runs, apart)
            names = variable_names(self.module.graph, plan, self.structure.runs)
            printer = Expressions(self.structure.text, self._folded(), names)
            texts = [list(self._statement(printer, statement)) for statement in plan]
            too_long = (s for s, text in zip(plan, texts, strict=True) if len(text) > 1 < len(s.inside))
            long = [self._first_line(printer, s) for s in too_long]
            if apart.issuperset(long):
                break
            apart.update(long)
        arguments = [f"{names[n]}: torch.Tensor" for n in self.module.graph.nodes if n.op == "placeholder"]
        head = ("def forward", Bracket("(", ("self", *arguments), ")"), f" -> {annotation(output)}:")
        return [*lines(head, 4), *(line for text in texts for line in text)]

    def _first_line(self, printer: Expressions, statement: Statement) -> fx.Node:
        """The outermost of the operations written in place that fits on a line of its own."""
        parts = statement.inside[-2::-1]
        fitting = (n for n in parts if len(lines(("x = ", printer.node(n)[0]), 8)) == 1 and not is_size(n))
        return next(fitting, parts[0])

    def dtypes(self) -> str:
        """The table from safetensors' names of types to torch's, of those that occur."""
        used = {t.dtype for t in [*self.module.parameters(), *self.module.buffers()]}
        for dtype in sorted(used - set(SAFETENSORS_DTYPES), key=str):
            self._refuse("E603", f"tensors of type {dtype} cannot be stored in safetensors")
        names = {SAFETENSORS_DTYPES[d]: str(d) for d in SAFETENSORS_DTYPES if d in used}
        table = Bracket("{", tuple((literal(k), ": ", v) for k, v in names.items()), "}")
        return "\n".join(lines(("dtypes = ", table), 4)).strip().removeprefix("dtypes = ")

    def _folded(self) -> dict[fx.Node, tuple[str, Any]]:
        return {run.nodes[-1]: (path, run.argument) for path, run in self.structure.runs.items()}

    def _statement(self, printer: Expressions, statement: Statement) -> Iterator[str]:
        node = statement.node
        try:
            if node.op == "output":
                yield from lines(("return ", printer.value(_plain(node.args[0]))), 8)
                return
            targets = ", ".join("_" if t is None else printer.names[t] for t in statement.targets)
            yield from lines((f"{targets} = " if targets else "", printer.node(node)[0]), 8)
        except Unprintable as reason:
            self._refuse("E602", f"forward cannot be written as source: {reason}", reason.where, _HINT)

    def _refuse_module(self, path: str, reason: str) -> None:
        where = next((_where(n) for n in self.module.graph.nodes if n.target == path), "")
        self._refuse("E601", f"module {path} cannot be written as source: {reason}", where, _HINT)

    def _refuse(self, code: str, message: str, where: str = "", hint: str = "") -> None:
        problem = Diagnostic(code, message, where, hint)
        if problem not in self.problems:  # forward may be planned several times
            self.problems.append(problem)


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
        return f"tuple[{inner[0]}, ...]" if len(set(inner)) == 1 and len(inner) > 3 else f"tuple[{', '.join(inner)}]"
    return "object"


def _class_name(original: str) -> str:
    """The original's class, as an identifier that nothing else in the file has."""
    name = re.sub(r"\W", "", original)
    if not name.isidentifier() or keyword.iskeyword(name) or name == "GraphModule" or hasattr(nn, name):
        return "Model"
    return (
        f"{name}Model"
        if name in ("Block", "Chain", "OrderedDict", "Path", "F", "nn", "torch", "json", "load")
        else name
    )


def _docstring(about: About, signature: Sequence[str]) -> str:
    text = [_clean(about.title), "", *signature, "", *(_clean(line) for line in about.lines)]
    wrapped = [w for line in text for w in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""]]
    return '"""' + "\n".join(wrapped).rstrip() + '\n"""\n'


def _where(node: fx.Node) -> str:
    return str(node.meta.get("where", ""))


def _clean(text: str) -> str:
    """Safe inside a docstring."""
    return " ".join(text.split()).replace("\\", "/").replace('"""', "'''").rstrip('"')


def _imports(code: str) -> str:
    standard = ["import json", *(f"import {m}" for m in ("math", "operator") if re.search(rf"\b{m}\.", code))]
    third = ["import torch", *(["import torch.nn.functional as F"] if re.search(r"\bF\.", code) else [])]
    standard += ["from collections import OrderedDict"] * ("OrderedDict(" in code)
    return "\n".join([*standard, "from pathlib import Path", "", *third, "from torch import nn"])
