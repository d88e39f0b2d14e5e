"""The registry of passes."""

from importlib.metadata import EntryPoint

import pytest

from passes import PASSES, make_pass, registry
from specs.diagnostics import PassError
from specs.options import OPTIONS

NEEDED = {"repeat": {"passes": ["uniform"], "times": 2}}


def test_passes_are_those_that_specs_know_options_of():
    assert tuple(PASSES) == tuple(OPTIONS)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_pass_has_its_name_and_options(name):
    options = OPTIONS[name].model_validate(NEEDED.get(name, {}))
    made = make_pass(name, options)
    assert (made.name, made.options) == (name, options)
    assert made.kind in ("selector", "transformer", "rounds")


def test_installed_passes_are_added_and_may_not_hide_ours():
    point = EntryPoint("mine", "passes.uniform:Uniform", "pagcp.passes")
    assert registry((point,))["mine"] is PASSES["uniform"]
    with pytest.raises(PassError) as caught:
        registry((EntryPoint("pagcp", "theirs:Pagcp", "pagcp.passes"),))
    assert str(caught.value) == ("error[P408]: the installed pass 'pagcp' of theirs:Pagcp has the name of another pass")


def test_an_unknown_pass():
    with pytest.raises(PassError) as caught:
        make_pass("finetun", None)
    assert str(caught.value) == "error[P408]: there is no pass 'finetun'\n  hint: did you mean finetune?"
