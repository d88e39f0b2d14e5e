"""The output folder: whole or not at all, and nothing of the user's is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagcp_cli.folder import check_target, staged, unfinished
from specs.diagnostics import SpecError


def result(folder: Path, **more: str) -> Path:
    """A folder that looks like an earlier result."""
    folder.mkdir()
    for name, text in {"plan.json": "old", "spec.lock.yaml": "old", **more}.items():
        (folder / name).write_text(text)
    return folder


def test_appears_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out, force=False) as stage:
        (stage.result / "plan.json").write_text("new")
        assert not out.exists()
        assert stage.folder.parent == out.parent
    assert (out / "plan.json").read_text() == "new"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_is_readable_by_others(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    with staged(tmp_path / "out", force=False) as stage:
        (stage.result / "file").touch(0o600)
    for name in ("", "file"):
        assert (tmp_path / "out" / name).stat().st_mode == (tmp_path / "plain" / name).stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged(tmp_path / "out", force=False) as stage:
        (stage.result / "plan.json").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_earlier_result(tmp_path: Path) -> None:
    out = result(tmp_path / "out")
    with pytest.raises(RuntimeError), staged(out, force=True):
        raise RuntimeError
    assert (out / "plan.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_force_replaces_an_earlier_result(tmp_path: Path) -> None:
    out = result(tmp_path / "out", **{"model.onnx": "old"})
    with staged(out, force=True) as stage:
        (stage.result / "plan.json").write_text("new")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"plan.json": "new"}
    assert list(tmp_path.iterdir()) == [out]


def refused(out: Path, *, force: bool) -> str:
    with pytest.raises(SpecError) as caught:
        check_target(out, force)
    return str(caught.value).replace(str(out), "OUT")


def test_an_earlier_result_needs_force(tmp_path: Path) -> None:
    assert refused(result(tmp_path / "out"), force=False) == (
        "error[S119]: OUT holds an earlier result\n  hint: --force replaces it; or choose another -o"
    )


def test_foreign_folders_are_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    assert refused(tmp_path / "out", force=True) == (
        "error[S119]: OUT exists and is not an earlier result (it holds thesis.tex)\n"
        "  hint: choose another -o; only earlier results are replaced"
    )


def test_files_added_to_a_result_are_not_lost(tmp_path: Path) -> None:
    out = result(tmp_path / "out", **{"notes.md": "mine"})
    assert refused(out, force=True) == (
        "error[S119]: OUT holds files that are not of the earlier result: notes.md\n"
        "  hint: move them away, or choose another -o"
    )


def test_files_and_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        assert "exists and is not a folder" in refused(tmp_path / name, force=True)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out", force=False) as stage:
        (stage.result / "plan.json").write_text("new")
    assert (tmp_path / "out" / "plan.json").read_text() == "new"


def interrupted(out: Path, *, worked: bool = True) -> None:
    """A run to `out` that was killed while it searched."""
    with pytest.raises(KeyboardInterrupt), staged(out, force=False) as stage:
        record = '{"kind": "answer", "key": "a"}\n' if worked else '{"kind": "start"}\n'
        stage.journal.write_text(record)
        (stage.result / "model.py").write_text("half")
        (stage.checkpoints / "001-finetune.running.pt").write_text("state")
        stage.keep = True
        raise KeyboardInterrupt


def test_what_was_found_is_not_lost_unasked(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    assert unfinished(tmp_path / "out")
    assert refused(tmp_path / "out", force=False) == (
        "error[S119]: an earlier run to OUT was interrupted\n  hint: --resume goes on with it, --force starts anew"
    )
    with staged(tmp_path / "out", force=False, resume=True) as stage:
        assert [p.name for p in stage.result.iterdir()] == ["journal.jsonl"]
        assert [p.name for p in stage.checkpoints.iterdir()] == ["001-finetune.running.pt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("worked", "force"), [(True, True), (False, False)])
def test_an_interrupted_run_is_swept(tmp_path: Path, worked: bool, force: bool) -> None:
    interrupted(tmp_path / "out", worked=worked)
    with staged(tmp_path / "out", force) as stage:
        assert [p for p in stage.folder.rglob("*") if p.is_file()] == [stage.owner]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_runs_to_one_place(tmp_path: Path) -> None:
    with staged(tmp_path / "out", force=False) as stage:
        for resume in (False, True):
            with pytest.raises(SpecError, match="another run is writing"):
                check_target(tmp_path / "out", force=True, resume=resume)
            with pytest.raises(SpecError, match="another run is writing"), staged(tmp_path / "out", True, resume):
                pass
        (stage.result / "plan.json").write_text("new")
    assert (tmp_path / "out" / "plan.json").read_text() == "new"


def test_a_kill_between_the_renames_loses_neither_result(tmp_path: Path) -> None:
    out = result(tmp_path / "out")
    interrupted_at = tmp_path / ".out.partial"
    (interrupted_at / "result").mkdir(parents=True)
    out.rename(interrupted_at / "old")
    with pytest.raises(RuntimeError), staged(out, force=True):
        assert (out / "plan.json").read_text() == "old"
        raise RuntimeError
    assert (out / "plan.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
