"""module:callable, and what is said when it does not resolve."""

import sys

import pytest

from passes.callables import call, resolve
from specs.diagnostics import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A spec's folder whose modules are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def failure(name, folder):
    with pytest.raises(DataError) as caught:
        resolve(name, folder, "s.yaml:3:9")
    return str(caught.value)


def test_a_function_beside_the_spec(folder):
    (folder / "mine_a.py").write_text("class Net:\n    @staticmethod\n    def build(n=1):\n        return n\n")
    assert resolve("mine_a:Net.build", folder)(n=3) == 3
    assert sys.path[-1] == str(folder)
    resolve("mine_a:Net", folder)
    assert sys.path.count(str(folder)) == 1


def test_no_such_module(folder):
    assert failure("mine_b:f", folder) == (
        "s.yaml:3:9  error[D701]: mine_b:f: there is no such module\n"
        "  hint: modules are looked up among those installed, then in the spec's folder"
    )


def test_a_module_that_fails_on_import(folder):
    (folder / "mine_c.py").write_text("import not_installed_at_all\n")
    assert failure("mine_c:f", folder) == (
        "s.yaml:3:9  error[D701]: mine_c:f: importing it raised ModuleNotFoundError: "
        "No module named 'not_installed_at_all'"
    )


def test_no_such_callable(folder):
    (folder / "mine_d.py").write_text("def build(): ...\nwidth = 3\n")
    assert failure("mine_d:biuld", folder) == (
        "s.yaml:3:9  error[D702]: mine_d:biuld: mine_d has no 'biuld'\n  hint: did you mean build?"
    )
    assert failure("mine_d:width", folder) == "s.yaml:3:9  error[D702]: mine_d:width is a int, which cannot be called"


def test_a_file_that_an_installed_module_hides(folder):
    (folder / "torch.py").write_text("def build(): ...\n")
    assert failure("torch:nn", folder) == (
        "s.yaml:3:9  error[D701]: 'torch' beside the spec is hidden by another module of that name\n"
        "  hint: the spec's folder comes last on the import path; rename the file"
    )


def test_the_projects_own_packages_win(folder):
    """A user's project may have folders named like ours."""
    (folder / "passes").mkdir()
    (folder / "passes" / "__init__.py").write_text("raise RuntimeError\n")
    assert "hidden by another module" in failure("passes:f", folder)


def test_what_it_raises_is_told():
    def f(n):
        raise ValueError("n is odd\nmore")

    with pytest.raises(DataError) as caught:
        call(f, "m:f", "s.yaml:1:1", n=1)
    assert str(caught.value) == "s.yaml:1:1  error[D703]: m:f raised ValueError: n is odd"


def test_arguments_may_have_the_names_of_our_own():
    assert call(lambda where, name, function: where + name + function, "m:f", where=1, name=2, function=4) == 7
