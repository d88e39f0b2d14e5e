"""What the user is told when something expected goes wrong: place, stable code, message, hint.

Text form (DESIGN section 9): `face.yaml:14:7  error[S104]: message` and an indented hint line.
Every code is one entry of CODES.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

__all__ = [
    "CODES",
    "DataError",
    "Diagnostic",
    "EmitError",
    "GraphError",
    "PagcpError",
    "PassError",
    "PlanError",
    "ProcessError",
    "SpecError",
    "TraceError",
    "VerifyError",
    "nearest",
]

CODES: dict[str, str] = {
    # the spec file
    "S100": "the spec, or a file that it extends, cannot be read",
    "S101": "the file is not valid YAML, or uses a part of YAML that specs do not have",
    "S102": "a key occurs twice in one mapping",
    "S103": "a key is not known at this place",
    "S104": "a value is out of its range",
    "S105": "a value has the wrong type",
    "S106": "a key that is needed is missing",
    "S107": "a name is not one of those that are known",
    "S108": "a feature that has a name but is not available in this version",
    "S109": "a quantity such as 40%, 1pp, 1.2G or 20MB cannot be read, or has the wrong unit here",
    "S110": "keys that exclude each other are given together, or none of them is given",
    "S111": "two tasks have the same name",
    "S112": "a file that the spec names does not exist, or has the wrong extension",
    "S113": "a pass needs tasks or data that the spec does not give",
    "S114": "files extend each other in a circle",
    "S115": "an environment variable that the spec uses is not set",
    "S116": "an override (--set) cannot be read or applied",
    "S117": "the file is too large, too deep, or expands to too many values",
    "S118": "a name does not have the form that is needed here, such as module:callable",
    "S119": "the output exists and may not be replaced, or cannot be written where it was asked for",
    "S120": "an interrupted run cannot be gone on with, because it is one of another spec, network or version",
    "S121": "networks cannot be compared as asked: one has no graph, or graphs of another kind",
    "S122": "what is to be timed cannot be run as asked: no file, inputs of unknown size, or no backend for both",
    "S123": "the journal of an interrupted run is damaged, or was edited",
    # the artifacts
    "E601": "a module cannot be written as source that needs only torch",
    "E602": "an operation of the network cannot be written as source that needs only torch",
    "E603": "a tensor has a type that safetensors cannot hold",
    "E604": "model.py, once written, does not give the outputs of the network",
    "E605": "torch.export cannot export the network",
    "E606": "model.pt2, once written, does not give the outputs of the network",
    "E607": "the network cannot be exported to ONNX",
    "E608": "model.onnx, run by onnxruntime, does not give the outputs of the network",
    "E609": "torch.export cannot load a program",
    "E610": "a file of a result is missing, or is not what was written",
    "E611": "a file of a result contradicts another one",
    "E612": "an ONNX file cannot be read",
    "E613": "a network that is to be timed does not run",
    "E614": "what a run writes cannot be written any more: the disk is full, read-only or gone",
    "E616": "the report cannot be drawn without matplotlib",
    "E617": "model.onnx cannot leave the axes free that the spec asks for",
    # tracing
    "T201": "the control flow of the network depends on data",
    "T202": "the network cannot be traced",
    "T203": "the network takes another number of inputs than the spec gives",
    "T204": "the file of trained weights cannot be read",
    "T205": "tensors of the network and of the weights file do not match by name",
    "T206": "tensors of the network and of the weights file do not match in shape",
    "T207": "the traced graph does not compute what the model computes",
    "T208": "the traced graph runs at one batch size only",
    "T209": "a torch.export program cannot be read, or is not a network in eval mode",
    "T210": "the network has tensors in half precision or complex ones",
    "T211": "a trained tensor holds NaN or infinity",
    # the channel graph
    "G301": "nothing may be cut",
    "G302": "a glob of model.protect matches no layer",
    "G303": "a value of the cut network would not have the shape that its channels ask for",
    # verification
    "V501": "the rewritten network differs from the masked original",
    "V502": "the cut cannot be proven to be exact",
    "V503": "a model that was cut in place does not give what the cut network gives",
    # passes
    "P401": "no cut that the selectors' options allow meets the budgets",
    "P402": "a scope matches no group",
    "P403": "the total tolerance does not exceed one plus the first tolerance",
    "P404": "a task's loss is not finite before anything is cut, or a metric to search by is not, or is 0",
    "P405": "a criterion is not known, finds no gradients, or its scores are not finite",
    "P406": "a selector cut nothing, with the reason of every group",
    "P407": "fine-tuning cannot go on: a loss that is not finite, or nothing to train",
    "P408": "a pass is not known, or an installed one has the name of a built-in one",
    "P409": "a pass lacks an option that it needs here",
    "P410": "the device or the precision that a pass asks for is not there",
    "P411": "all cuts were given back, and the guarantees still do not hold on validation",
    "P412": "the trainer of a spec returned a model with other tensors than it was given",
    "P413": "no cut that was measured meets the latency budget",
    "P414": "the command or the table of a latency budget gives no milliseconds",
    # data, losses and metrics
    "D701": "a module that the spec names cannot be imported, or another one hides it",
    "D702": "a module has no callable of that name",
    "D703": "a callable of the spec raised",
    "D704": "reading a batch raised",
    "D705": "a split is empty",
    "D706": "the calibration data do not fit into the memory set aside for them",
    "D707": "an item of a split is not (input, target), or an input does not fit the network",
    "D708": "an input holds NaN or infinity",
    "D709": "a split or the data that a pass needs are missing, or a split is not known",
    "D710": "a split cannot be sampled, because it has no index",
    "D711": "a task's output or target is not where the spec says",
    "D712": "a task has no loss, or its loss raised",
    "D713": "a loss is not a single number",
    "D714": "a loss is not known, or takes no such argument",
    "D715": "no sample of a split has a label for a task",
    "D716": "a task's samples without a label cannot be told from those with one",
    "D717": "memory ran out",
    "D721": "a metric is not known",
    "D722": "a metric refuses its arguments or the values it is given",
    "D723": "it is not known whether higher values of a metric are better",
    # several processes
    "R901": "another process ended, or cannot be reached",
    "R902": "processes that must be alike are not: another network, other data, or other decisions",
    # the plan
    "L801": "the plan cannot be read, or is not valid JSON",
    "L802": "the plan is JSON but not a plan",
    "L803": "the plan has a version that is not known",
    "L804": "the plan was made for another network (its fingerprint differs)",
    "L805": "the plan names groups or widths that the network does not have",
    "L806": "the plan keeps indices of tensors that a model does not have",
    "L807": "the tensors beside a plan (plan.safetensors) are missing, or are not those that it names",
    "L808": "figures of a plan are not what its cuts come to",
    "L809": "the spec now gives another plan",
}

Severity = Literal["error", "warning"]
_COLUMN = re.compile(r":(\d+):(\d+)$")
_MAX_LINE = 80
"""Columns of an excerpt, its line number included."""


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `where`: "file:line:col" or any shorter place; `line`: the offending line, where known."""

    code: str
    message: str
    where: str = ""
    hint: str = ""
    severity: Severity = "error"
    line: str = ""

    def render(self, *, excerpt: bool = False) -> str:
        """The text form; `excerpt` adds the offending source line with a caret under the column."""
        place = f"{self.where}  " if self.where else ""
        parts = [f"{place}{self.severity}[{self.code}]: {self.message}"]
        if excerpt:
            parts += self._excerpt()
        if self.hint:
            parts.append(f"  hint: {self.hint}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, str]:
        """The same data for `--json`."""
        return {
            "severity": self.severity,
            "code": self.code,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
        }

    def _excerpt(self) -> list[str]:
        place = _COLUMN.search(self.where)
        if place is None or not self.line.strip():
            return []
        number, column = place[1], int(place[2]) - 1
        room = _MAX_LINE - len(number) - len("   | ")
        # a long line is cut around the column; control characters never reach the terminal
        start = max(0, min(column - room // 2, len(self.line) - room)) if len(self.line) > room else 0
        shown = "".join(c if c.isprintable() else " " for c in self.line[start : start + room])
        gutter = " " * len(number)
        return [f"  {number} | {shown}", f"  {gutter} | {' ' * (column - start)}^"]


_E = TypeVar("_E", bound="PagcpError")


class PagcpError(Exception):
    """An expected failure. `diagnostics` says all that is known of it; `exit_code` is the command line's."""

    exit_code: ClassVar[int] = 1

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return self.render()

    def render(self, *, excerpt: bool = False) -> str:
        """All diagnostics in text form, one after the other."""
        return "\n".join(d.render(excerpt=excerpt) for d in self.diagnostics)

    @classmethod
    def one(cls: type[_E], code: str, message: str, where: str = "", hint: str = "") -> _E:
        """The error with a single diagnostic."""
        return cls((Diagnostic(code, message, where, hint),))


class SpecError(PagcpError):
    """S1xx: the spec, or what was given on the command line, is wrong."""

    exit_code = 2


class TraceError(PagcpError):
    """T2xx: the network cannot be traced."""


class GraphError(PagcpError):
    """G3xx: the channel graph offers nothing to cut, or names do not match it."""


class PassError(PagcpError):
    """P4xx: a pass cannot do what was asked (an infeasible budget, ...)."""


class VerifyError(PagcpError):
    """V5xx: the rewritten network does not equal the masked original."""


class EmitError(PagcpError):
    """E6xx: an artifact cannot be written or does not reload."""


class DataError(PagcpError):
    """D7xx: data, loader, loss or metric do not fit."""


class PlanError(PagcpError):
    """L8xx: a plan is unreadable or belongs to another network."""


class ProcessError(PagcpError):
    """R9xx: several processes cannot go on together."""


def nearest(word: str, known: Sequence[str], *, listed: int = 12) -> str:
    """A hint for an unknown name: the closest known ones, or else the list of them."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    if not known:
        return ""
    more = ", ..." if len(known) > listed else ""
    return "known: " + ", ".join(known[:listed]) + more
