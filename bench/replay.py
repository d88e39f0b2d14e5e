"""`make replay`: recompile the example specs and compare plan.json, byte by byte, with the committed ones.

A refactor must change nothing: no output. `--update` writes what the plans are now, to be reviewed as code. What comes
after the last selector cannot change a plan and is left out; a spec with a latency budget has no stable plan.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pagcp_cli import Spec, compile_spec, load_spec
from passes import PASSES

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "plans"


def plan_of(path: Path) -> str:
    """plan.json of that spec."""
    with tempfile.TemporaryDirectory() as folder:
        compile_spec(_selectors_only(load_spec(path)), Path(folder) / "out")
        return (Path(folder) / "out" / "plan.json").read_text(encoding="utf-8")


def _selectors_only(spec: Spec) -> Spec:
    last = max(i for i, step in enumerate(spec.passes) if getattr(PASSES[step.name], "kind", "") == "selector")
    copy = spec.model_copy(update={"passes": spec.passes[: last + 1], "export": ()})
    assert copy.path == spec.path
    return copy


def main() -> int:
    """0 when all plans are the same."""
    changed = 0
    for path in sorted((ROOT / "specs" / "examples").glob("*.yaml")):
        golden = GOLDEN / f"{path.stem}.json"
        text = plan_of(path)
        if "--update" in sys.argv:
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(text, encoding="utf-8", newline="\n")
        elif not golden.is_file() or golden.read_text(encoding="utf-8") != text:
            print(f"{path.relative_to(ROOT)}: the plan differs from {golden.relative_to(ROOT)}")
            changed += 1
    return min(changed, 1)


if __name__ == "__main__":
    sys.exit(main())
