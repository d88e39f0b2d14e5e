"""The text of a first spec: what is known is written out, what only the user knows stands in comments to fill in.

It is valid as it stands, and compiles without data; the commented data and tasks are valid, too, once the # is gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pagcp_cli.inspection import SeenGroup
from pagcp_cli.numbers import percent
from pagcp_cli.outline import Outline, SeenOutput

__all__ = ["initial_spec"]

_NOTE = 34
"""The column at which remarks begin."""


def initial_spec(known: Outline, file: str) -> str:
    """The YAML of the spec that is to lie in `file`."""
    lines = [*_head(known, file), *_model(known), *_steps(known), *_data(known), "", *_groups(known)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _head(known: Outline, file: str) -> Iterator[str]:
    stem = Path(file).stem
    yield f"# {known.found.model}, as `pagcp init` found it. What stands behind # is yours to fill in."
    yield "#"
    yield f"#   pagcp validate {file}   says in words what it understood"
    yield f"#   pagcp inspect {file}    says what is coupled, what may not be cut, and why"
    yield f"#   pagcp compile {file}    cuts, proves the cuts, and writes out/{stem}"
    yield "version: 1"


def _model(known: Outline) -> Iterator[str]:
    model = known.spec.model
    shapes = ", ".join(
        f"[{', '.join(map(str, i.shape))}]"
        if i.dtype == "float32"
        else f"{{shape: [{', '.join(map(str, i.shape))}], dtype: {i.dtype}}}"
        for i in model.inputs
    )
    module = str(model.factory).partition(":")[0].rpartition(".")[2]
    yield "model:"
    yield f"  factory: {model.factory}"
    yield _with(f"  # weights: {module}.safetensors", "or .pt with tensors alone; without, as the factory returns it")
    yield _with(f"  inputs: [{shapes}]", "one shape per positional input, batch first")
    heads = [output for output in known.outputs if output.head is not None]
    if heads:
        yield "  # Outputs of the network are never cut. To keep a head as wide as it is, take the # away here as well:"
        yield "  # protect:"
    for output in heads:
        yield from _protect(output, known.found.costs.macs)


def _protect(output: SeenOutput, total: int) -> Iterator[str]:
    assert output.head is not None
    of = f"{output.head.layers} layer{'s' * (output.head.layers > 1)}, {percent(output.head.macs, total)} of MACs"
    for number, glob in enumerate(output.head.globs):
        yield _with(f"  #   - {json.dumps(glob)}", f"{_name(output)}: {of}" if not number else "")


def _name(output: SeenOutput) -> str:
    return f"output {output.name}" if output.name != "output" else "the output"


def _steps(known: Outline) -> Iterator[str]:
    name, share = known.budget
    yield _with(f"budgets: {{{name}: {share:g}%}}", "keep at most; macs, params and bytes may all be given")
    yield "passes:"
    yield _with("  - uniform: {criterion: l1}", "every group by the same ratio, without data; others: pagcp passes")


def _data(known: Outline) -> Iterator[str]:
    module = str(known.spec.model.factory).partition(":")[0]
    yield ""
    yield "# With data, every task is held against the drop that you allow. Losses and metrics are guesses from shapes."
    yield "# data:"
    splits = '{"train", "calibration", "validation", "test"}'
    yield _with(f"#   factory: {module}:datasets", f"returns {splits}, datasets of (input, target)")
    yield "# tasks:"
    for output in known.outputs:
        yield from _task(output, known.bare)
    yield "# Then these passes, in place of those above, cut what costs the worst task least, repair, and train:"
    yield "# passes:"
    yield "#   - pagcp: {}"
    yield "#   - refit"
    yield "#   - finetune: {epochs: 5}"


def _task(output: SeenOutput, bare: bool) -> Iterator[str]:
    name = output.name if re.fullmatch(r"[A-Za-z]\w*", output.name) else json.dumps(output.name)
    classes = output.shape[1] if len(output.shape) == 2 and output.shape[1] > 1 else None
    loss = "mse_loss" if classes is None else "cross_entropy"
    metric = "MeanSquaredError" if classes is None else f"{{name: MulticlassAccuracy, num_classes: {classes}}}"
    drop = "2%" if classes is None else "1pp"
    place = "" if bare else f"output: {name}, target: {name}, "
    yield f"#   - {{name: {name}, {place}loss: {loss}, # {output.type}"
    yield f"#      metric: {metric}, guarantee: {{max_drop: {drop}}}}}"


def _groups(known: Outline) -> Iterator[str]:
    found = known.found
    yield f"# What was found: {len(found.groups)} groups, {found.free} of {found.units} units free to cut."
    rows = [("group", "width", "free", "of MACs", "pinned because")]
    rows += [_row(group, found.costs.macs) for group in found.groups]
    names, widths, frees = (max(len(row[at]) for row in rows) for at in range(3))
    for name, width, free, share, why in rows:
        yield f"#   {name:{names}}  {width:>{widths}}  {free:>{frees}}  {share:>7}  {why}"
    yield from _limits(found.groups)


def _row(group: SeenGroup, total: int) -> tuple[str, str, str, str, str]:
    pin = group.pins[0] if group.pins and group.free < group.units else None
    why = "" if pin is None else f"{pin.reason} ({pin.where})" if pin.where else pin.reason
    return group.name, str(group.width), str(group.free or "none"), percent(group.macs, total), " ".join(why.split())


def _limits(groups: Iterable[SeenGroup]) -> Iterator[str]:
    free = [group.name for group in groups if group.free]
    scopes = f"{{{json.dumps(free[0])}: {{max_ratio: 0.3}}}}"
    yield f"# To cut one of them less: - uniform: {{criterion: l1, scopes: {scopes}}}"


def _with(text: str, remark: str) -> str:
    return f"{text:{_NOTE}}# {remark}" if remark else text
