"""`export`: names, or onnx with its options; what is wrong is told where it stands."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from specs.describe import describe
from specs.diagnostics import SpecError
from specs.exporting import OnnxExport, OnnxOptions, format_of, onnx_options
from specs.schema import SCHEMA_FILE
from specs.spec import Spec
from tests.specs.conftest import MODEL, PASSES, Read

GOOD = MODEL + PASSES
VALIDATOR = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))
FULL = "export: [python, onnx: {opset: 18, dynamic: [batch, height, width]}]\n"


def test_names_and_options(read: Read) -> None:
    spec = read(GOOD + FULL)
    full = OnnxOptions(opset=18, dynamic=("batch", "height", "width"))
    assert spec.export == ("python", OnnxExport(onnx=full))
    assert [format_of(item) for item in spec.export] == ["python", "onnx"]
    assert [onnx_options(item) for item in spec.export] == [OnnxOptions(), full]
    assert describe(spec)[-1] == "writes python, onnx (opset 18, batch and height and width free)"


@pytest.mark.parametrize("written", ["[python, pt2, onnx]", "[onnx: ]", "[onnx: {dynamic: []}]", "[]", "[onnx: {}]"])
def test_the_lock_says_the_same_again(written: str, read: Read) -> None:
    spec = read(GOOD + f"export: {written}\n")
    assert Spec.model_validate(yaml.safe_load(spec.to_yaml())).export == spec.export
    assert VALIDATOR.is_valid(yaml.safe_load(GOOD + f"export: {written}\n"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[onnx: {opset: 13}]", "error[S104]: export[0].onnx.opset must be from 18 to 25, got 13"),
        ("[pt2, onnx: {opset: 18.5}]", "error[S105]: export[1].onnx.opset must be a whole number, got 18.5"),
        ("[onnx: {opset: 26}]", "error[S104]: export[0].onnx.opset must be from 18 to 25, got 26"),
        ("[onnx: {dynamic: [hight]}]", "error[S107]: export[0].onnx.dynamic[0] must be one of batch, height, width"),
        ("[onnx: {dynamic: [batch, batch]}]", "error[S111]: export[0].onnx.dynamic names an axis twice"),
        ("[onnx: {opsett: 18}]", "error[S103]: export[0].onnx.opsett is not a known key\n  hint: did you mean opset?"),
        (
            "[onxx: {}]",
            "error[S107]: export[0] must be one of python, pt2, onnx, got 'onxx'\n  hint: did you mean onnx?",
        ),
        ("[pt2: {opset: 18}]", "error[S105]: export[0]: pt2 takes no options\n  hint: write pt2"),
        ("[{onnx: {}, pt2: {}}]", "error[S105]: export[0] must hold one format, got 2 keys"),
        ("[3]", "error[S105]: export[0] must be a format such as onnx, got 3"),
        (
            "[onnx, pt2, onnx: {opset: 18}]",
            "error[S111]: export[2] must be unique, got onnx again\n  hint: export[0] asks for it already",
        ),
    ],
)
def test_what_is_wrong_is_told(written: str, message: str, read: Read) -> None:
    with pytest.raises(SpecError) as caught:
        read(GOOD + f"export: {written}\n")
    assert message in str(caught.value)
    assert not VALIDATOR.is_valid(yaml.safe_load(GOOD + f"export: {written}\n")) or "S111" in message
