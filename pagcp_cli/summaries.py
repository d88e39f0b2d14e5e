"""What `diff` compares: a spec, a plan, an artifact folder (its plan), a .pt2 or a .onnx file, as one summary each.

Torch is imported for specs, .pt2 files and graphs only, onnx for .onnx files.
"""

from __future__ import annotations

from pathlib import Path

import specs.diff
from specs.diagnostics import PlanError, SpecError
from specs.diff import Diff, GraphSummary, summary_of_plan
from specs.graph_diff import GraphDiff, GraphText, graph_diff
from specs.plan import Plan, read_plan

__all__ = ["diff", "diff_graphs", "summary_of"]

Source = str | Path | Plan
_SPECS = (".yaml", ".yml")


def diff(before: Source, after: Source | None = None) -> Diff:
    """The layers of two networks side by side, matched by name.

    A source is a Plan, or the path of a spec, a plan.json, an artifact folder, a .pt2 or .onnx file. Of a spec the
    network as it was trained is meant, of a plan the network after its cuts. Without `after`, what the plan `before`
    itself changes. Raises PlanError, EmitError, or what opening a spec raises, when something cannot be read.
    """
    if after is not None:
        return specs.diff.diff(summary_of(before), summary_of(after))
    plan = _plan(before)
    return specs.diff.diff(summary_of_plan(plan, "before"), summary_of_plan(plan, "after"))


def diff_graphs(before: Source, after: Source | None) -> GraphDiff:
    """The graphs of two networks, node by node. SpecError S121 where they have none, or graphs of another kind.

    The graph of a folder is that of its model.pt2, or of its model.onnx beside another ONNX file.
    """
    if after is None:
        raise SpecError.one("S121", "one network has no graph to be compared with", hint="name two networks")
    onnx = [isinstance(s, (str, Path)) and Path(s).suffix == ".onnx" for s in (before, after)]
    return graph_diff(*(_graph(source, any(onnx)) for source in (before, after)))


def summary_of(source: Source) -> GraphSummary:
    """The summary of one side: the network as trained, after the plan's cuts, or in the file."""
    suffix = Path(source).suffix if isinstance(source, (str, Path)) and not Path(source).is_dir() else ""
    if isinstance(source, Plan) or suffix not in (*_SPECS, ".pt2", ".onnx"):
        return summary_of_plan(_plan(source), "after")
    if suffix == ".pt2":
        from pagcp_ir.summary import summary_of_pt2

        return summary_of_pt2(source)
    if suffix == ".onnx":
        from pagcp_ir.onnx_summary import open_onnx

        return open_onnx(source).summary()
    from pagcp_cli.network import open_network
    from pagcp_ir.summary import summary_of_channels
    from specs.spec import load_spec

    return summary_of_channels(open_network(load_spec(source))[1], str(source))


def _graph(source: Source, onnx: bool) -> GraphText:
    """The graph of one side, that of ONNX if the other side has one."""
    path = None if isinstance(source, Plan) else Path(source)
    if path is None or not (path.is_dir() or path.suffix in (*_SPECS, ".pt2", ".onnx")):
        told = "a plan says what is cut, and holds no graph"
        raise SpecError.one("S121", told, str(path or ""), "name the spec, or the folder that was written")
    if path.is_dir():
        name = "model.onnx" if onnx else "model.pt2"
        if not (path / name).is_file():
            raise SpecError.one("S121", f"the folder holds no {name}", str(path), "export it, or compare other files")
        path /= name
    if onnx and path.suffix != ".onnx":
        told = "a graph of torch has other nodes than one of ONNX"
        raise SpecError.one("S121", told, str(path), "compare two of .onnx and folder, or two of spec, folder and .pt2")
    if path.suffix == ".onnx":
        from pagcp_ir.onnx_summary import open_onnx

        return open_onnx(path).text()
    from pagcp_ir.text import program_graph

    if path.suffix == ".pt2":
        from pagcp_ir.program_file import open_program

        return program_graph(open_program(path), str(source))
    from pagcp_cli.network import open_network
    from specs.spec import load_spec

    return program_graph(open_network(load_spec(path))[0], str(source))


def _plan(source: Source) -> Plan:
    if isinstance(source, Plan):
        return source
    path = Path(source)
    if path.is_dir():
        if not (path / "plan.json").is_file():
            raise PlanError.one("L801", "the folder holds no plan.json", str(path), "name an artifact folder")
        path = path / "plan.json"
    if path.suffix in (*_SPECS, ".pt2", ".onnx"):
        raise PlanError.one("L801", "a program alone says nothing of a change", str(path), "name two networks")
    return read_plan(path)
