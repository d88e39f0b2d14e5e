"""Every refusal of pagcp_ir, word by word; and no reason in its sources that no test has met.

The last test walks the sources: it fails for every template of prose that no string of the tests matches. Pins have
their cases in test_pins.py; what else is refused has one here.
"""

from __future__ import annotations

import ast
import functools
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, ValueAxis
from pagcp_ir.emit import EXPORTERS, About
from pagcp_ir.exported import graph_module_of
from pagcp_ir.planning import require_free_units
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.program_file import open_program
from pagcp_ir.rewrite import materialise, require_shapes
from pagcp_ir.summary import summary_of_pt2
from pagcp_ir.trace import trace
from pagcp_ir.verify import Verification, require_exact, verify
from specs.diagnostics import PagcpError
from tests.running import ROOT

IMAGE = TensorSpec((1, 3, 8, 8))


class Small(nn.Module):
    """conv a [4] -> relu -> conv out [2]"""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.a(x)))


def built(model: nn.Module | None = None) -> tuple[Program, ChannelGraph, np.ndarray]:
    """A program, its channels, and a cut of the first free unit."""
    program = trace(model or Small(), [IMAGE])
    channels = analyse(program)
    keep = channels.all
    keep[np.flatnonzero(channels.free)[:1]] = False
    return program, channels, keep


# the check


class Pooled(nn.Module):
    """The same result as its parent's at one image size only, where `exact` is off."""

    def __init__(self, exact: bool = True) -> None:
        super().__init__()
        self.exact = exact
        self.a, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).sum((2, 3), keepdim=True)
        return self.out(y / (y.new_tensor(64.0) if not self.exact else x.shape[2] * x.shape[3]))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.out = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.a(x)))


def not_finite() -> Verification:
    program, channels, keep = built()
    with torch.no_grad():
        program.tensors()["out.bias"][0] = float("nan")
    return verify(program, channels, keep, materialise(program, channels, keep))


def wrong_index() -> Verification:
    program, channels, keep = built()
    wrong = {("a.weight", 0): np.array([0, 1, 2])}
    return verify(program, channels, keep, materialise(program, channels, keep, wrong))


def wrong_size() -> Verification:
    program, channels, keep = built(Pooled())
    right = materialise(program, channels, keep)
    other = Pooled(exact=False)
    other.a, other.out = right.module.a, right.module.out
    return verify(program, channels, keep, trace(other, [IMAGE]))


def blind() -> Verification:
    program, channels, keep = built()
    with torch.no_grad():
        program.tensors()["out.weight"].zero_()
    return verify(program, channels, keep, materialise(program, channels, keep))


def normalised() -> Verification:
    program, channels, keep = built(Normed())
    return verify(program, channels, keep, materialise(program, channels, keep))


VERDICTS: dict[str, tuple[Callable[[], Verification], str]] = {
    "not finite": (not_finite, "unverifiable: the masked original is not finite"),
    "a wrong index": (wrong_index, "wrong: outputs differ at batch 2"),
    "right at one size only": (wrong_size, "wrong: outputs differ at another image size"),
    "nothing is read": (
        blind,
        "unverifiable: the output does not react when a reader takes a removed channel for a kept one",
    ),
    "statistics over channels": (normalised, "exact: kept channels normalised alone"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict(name: str) -> None:
    check, text = VERDICTS[name]
    found = check()
    assert f"{found.status}: {found.reason}" == text


# refusals


def wrong_cut() -> None:
    require_exact(Verification("wrong", 0.25, 1e-9, "outputs differ at batch 2"))


def no_proof() -> None:
    require_exact(Verification("unverifiable", 0.0, 1e-9, "the masked original is not finite"))


def no_layers() -> None:
    require_free_units(analyse(trace(nn.ReLU(), [IMAGE])))


def a_shape_that_does_not_follow() -> None:
    program, channels, keep = built()
    relu = channels.values["relu"]
    values = {**channels.values, "relu": ValueAxis(2, relu.units.repeat(2))}
    cut_and_run(program, replace(channels, values=values), keep)


def cut_and_run(program: Program, channels: ChannelGraph, keep: np.ndarray) -> None:
    require_shapes(program, channels, keep, materialise(program, channels, keep))


def a_reader_that_is_forgotten() -> None:
    program, channels, keep = built()
    bindings = tuple(b for b in channels.bindings if b.role != "in")
    cut_and_run(program, replace(channels, bindings=bindings), keep)


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


def emitted(form: str, module: nn.Module, inputs: Sequence[TensorSpec] = (IMAGE,)) -> None:
    EXPORTERS[form](trace(module, inputs), Path("unused"), About("Test"))


def own_forward() -> None:
    module = nn.Sequential(nn.ReLU())
    module[0].forward = F.relu
    emitted("python", module)


def mixed_types() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    module[0].zoom = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    emitted("python", module)


def more_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1))
    module[0].zoom = nn.Parameter(torch.ones(1))
    emitted("python", module)


def other_attributes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1))
    module[0].output_padding = (1, 1)
    emitted("python", module)


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 2j).abs()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 3 if float(x.sum()) > 0 else x


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v * 3, (x,))


class Finds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.nonzero()


@torch.library.custom_op("reasons::overwrite", mutates_args={"x"})
def overwrite(x: Tensor) -> None:
    x.mul_(2)


class Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 1
        overwrite(y)
        return y


@dataclass
class Pair:
    first: Tensor
    second: Tensor


torch.export.register_dataclass(Pair)


class Pairs(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x, x + 1)


def read(module: nn.Module) -> None:
    """What a .pt2 file of the module would meet."""
    graph_module_of(torch.export.export(module, (torch.rand(2, 3),)), "Net")


def opened(file: Callable[[Path], object], *inputs: TensorSpec) -> None:
    """Read net.pt2, which `file` writes."""
    path = Path("unused") / "net.pt2"
    file(path)
    open_program(path, inputs or None)


def compiled_code(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data/aotinductor/model/code.so", b"")


class Repeats(nn.Module):
    def forward(self, x: Tensor, times: int) -> Tensor:
        return x * times


def with_a_number(path: Path) -> None:
    shapes = ({}, torch.export.Dim.DYNAMIC)
    torch.export.save(torch.export.export(Repeats(), (torch.rand(2, 3), 3), dynamic_shapes=shapes), path)


class OfTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1).sum(1, keepdim=True) * x.view(6).softmax(0).sum()


def of_one_batch(path: Path) -> None:
    torch.export.save(torch.export.export(OfTwo(), (torch.rand(2, 3),)), path)


SHOULD_NOT = "\n  hint: protect the layers before it (model.protect), and report the network: this should not happen"
ONLY_TORCH = "\n  hint: export pt2 and onnx only, or write this part with modules and functions of torch"
SOURCE = (
    'HERE:EXPORTERS[form](trace(module, inputs), Path("unused"), About("Test"))  error[E601]: '
    "module 0 cannot be written as source: "
)

REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "a wrong cut": (
        wrong_cut,
        "error[V501]: the rewritten network differs from the masked original by 0.25 of its output scale "
        "(outputs differ at batch 2; allowed 1e-09)\n  hint: nothing was written; please report the network",
    ),
    "a cut that proves nothing": (
        no_proof,
        "error[V502]: the cut cannot be proven: the masked original is not finite\n"
        "  hint: nothing was written; check the weights for NaN or dead layers",
    ),
    "no layers": (no_layers, "error[G301]: nothing may be cut: the network has no layer that makes channels"),
    "a shape that does not follow": (
        a_shape_that_does_not_follow,
        "HERE:return self.out(torch.relu(self.a(x)))  error[G303]: `relu` would have shape [2, 3, 8, 8] after the cut, "
        "its channels ask for [2, 4, 6, 8]" + SHOULD_NOT,
    ),
    "a reader that is forgotten": (
        a_reader_that_is_forgotten,
        "error[G303]: the cut network does not run: ...",
    ),
    "an exception in forward": (
        lambda: trace(Raises(), [IMAGE]),
        'HERE:raise ValueError("not today")  error[T202]: Raises cannot be traced: ValueError: not today\n'
        "  hint: move what fails into a sub-module of its own: it is then kept whole and the rest is cut",
    ),
    "a graph that calls graphs": (
        lambda: read(Chooses()),
        "HERE:return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v * 3, (x,))  error[T202]: "
        "the exported graph calls cond, which cannot be cut",
    ),
    "a graph that reads data": (
        lambda: read(Finds()),
        "HERE:return x.nonzero()  error[T201]: the control flow depends on data: `aten.nonzero.default` reads the "
        "values of a tensor\n  hint: compute both sides and select with torch.where, or move the branch out of forward",
    ),
    "a graph that writes in place": (
        lambda: read(Overwrites()),
        "HERE:overwrite(y)  error[T202]: the exported graph writes in place by `reasons.overwrite.default`, "
        "which is not known",
    ),
    "a graph that returns objects": (
        lambda: read(Pairs()),
        "error[T202]: the exported graph returns a Pair, not tensors in containers",
    ),
    "a file of compiled code": (
        lambda: opened(compiled_code),
        "error[T209]: net.pt2 holds compiled code, not a graph that can be cut\n"
        "  hint: save it with torch.export.save, before it is compiled",
    ),
    "a file whose inputs are not tensors": (
        lambda: opened(with_a_number),
        "error[T209]: net.pt2: the input times is no tensor\n"
        "  hint: export the network with tensors as its only inputs",
    ),
    "a file of one batch size": (
        lambda: opened(of_one_batch),
        "error[T208]: net.pt2 runs at batch size 2 only: RuntimeError: shape '[2, -1]' is invalid for input of size 9\n"
        "  hint: export it with dynamic_shapes={'x': {0: torch.export.Dim.DYNAMIC}}",
    ),
    "a forward of its own": (own_forward, f"{SOURCE}ReLU has its own forward{ONLY_TORCH}"),
    "mixed types": (mixed_types, f"{SOURCE}BatchNorm2d mixes parameters of several types{ONLY_TORCH}"),
    "more parameters": (more_parameters, f"{SOURCE}Conv2d has other parameters than nn.Conv2d(3, 3, 1){ONLY_TORCH}"),
    "other attributes": (
        other_attributes,
        f"{SOURCE}Conv2d does not follow from its arguments: output_padding is (1, 1), nn.Conv2d(3, 3, 1) gives (0, 0)"
        f"{ONLY_TORCH}",
    ),
    "a constant that is no literal": (
        lambda: emitted("python", Complex()),
        "HERE:return (x * 2j).abs()  error[E602]: forward cannot be written as source: "
        f"a value of type complex is not a literal{ONLY_TORCH}",
    ),
    "what torch.export cannot follow": (
        lambda: emitted("pt2", nn.Sequential(nn.Conv2d(3, 3, 1), Branching())),
        "error[E605]: torch.export cannot export the network: GuardOnDataDependentSymNode: "
        "Could not guard on data-dependent expression ...",
    ),
    "a file that is no program": (
        lambda: summary_of_pt2(ROOT / "README.md"),
        f"{ROOT / 'README.md'}  error[E609]: torch.export cannot load the program: "
        "File is not a zip file\n  hint: a .pt2 file belongs to the torch version that wrote it; "
        f"this is {torch.__version__}",
    ),
}


def placed(text: str) -> str:
    """HERE:code becomes the file and the line of that code. (What torch says, after ..., is torch's.)"""
    head, here, rest = text.partition("HERE:")
    if not here:
        return text
    code = rest.partition("  error[")[0]
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.strip() == code)
    return f"{head}tests/ir/test_reasons.py:{number}{rest.removeprefix(code)}"


@pytest.mark.parametrize("name", REFUSALS)
def test_the_refusal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unused").mkdir()
    refused, text = REFUSALS[name]
    with pytest.raises(PagcpError) as caught:
        refused()
    told, expected = str(caught.value), placed(text)
    assert told == expected or (expected.endswith("...") and told.startswith(expected.removesuffix("...")))


# the walk over the sources

HOLE = "\0"
"""Stands where an f-string has a value."""

NO_REASONS = ("text.py", "dot.py", "rules.py", "aten.py", "aten_special.py", "lifting.py")
"""Tables of ops, and what prints graphs."""

CODE = re.compile(
    r"\s*(class|def|import|from|return|dict\[|tuple\[|getattr\(|is not$|File |dtypes = |Inputs? |Outputs?\b)|.*\n"
)
"""Text that is, or is matched with, source code."""

UNREACHED = {
    "varies on several axes": "labels: the axis that is asked for is one of those that vary",
    f"`{HOLE}` runs along another axis": "contraction: the same",
    f"`{HOLE}` runs over another axis": "normalisations: the same",
    f"the constant `{HOLE}`": "analyse: tracing makes buffers of all constants",
    f"`{HOLE}` pads by an amount that is computed": "movers: what is computed from sizes is a number by then",
    f"a graph node of kind {HOLE}": "emit: there are no others",
    f"{HOLE} has {HOLE} outputs, the program {HOLE}": "emit: no exporter was seen to drop one",
    f"{HOLE} cannot be written: {HOLE}": "emit: what torch.export accepts it has always saved",
    f"{HOLE} does not run as written: {HOLE}: {HOLE}": "emit: a net below the printer",
}
"""Reasons that no model is known to meet, and why they stay."""


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string but docstrings; HOLE for the values of f-strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    parts |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(v.value if isinstance(v, ast.Constant) else HOLE for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            braced = "{{" in node.value  # for str.format
            text = re.sub(r"\{\w+(![rs])?\}", HOLE, node.value).replace("{{", "{") if braced else node.value
            yield node.lineno, text.replace("}}", "}") if braced else text


def templates() -> Iterator[tuple[str, str]]:
    """Place and text of whatever in pagcp_ir reads like a reason: three words or more, values counted."""
    for path in sorted((ROOT / "pagcp_ir").rglob("*.py")):
        for line, text in strings(path):
            words = re.findall(r"[A-Za-z]{2,}", text)
            long = len(words) >= 2 and len(words) + text.count(HOLE) >= 3
            prose = long and " " in text.strip() and not CODE.match(text)
            if prose and path.name not in NO_REASONS:
                yield f"{path.relative_to(ROOT)}:{line}", text


@functools.cache
def met() -> str:
    """All strings of the tests of pagcp_ir, but for those of this walk."""
    skipped = set(UNREACHED)
    files = sorted((ROOT / "tests").rglob("*.py"))
    return "\n".join(t for path in files for _, t in strings(path) if t.replace("\0", HOLE) not in skipped)


def test_every_reason_has_a_case() -> None:
    missing = []
    for place, text in templates():
        pattern = "[^\n]*?".join(map(re.escape, text.split(HOLE)))
        if text not in UNREACHED and not re.search(pattern, met()):
            missing.append(f"  {place}: {text.replace(HOLE, '{}')}")
    assert not missing, (
        "no test has these words; add a case to CASES in tests/ir/test_pins.py (a pin) or to REFUSALS in "
        "tests/ir/test_reasons.py (a refusal):\n" + "\n".join(missing)
    )


def test_what_is_not_reached_exists() -> None:
    assert set(UNREACHED) <= {text for _, text in templates()}
