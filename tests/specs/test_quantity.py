"""Quantities: every written form prints back, and limits are exact."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specs.quantity import Quantity, json_schema

UNITS = ["", "%", "pp", "K", "M", "G", "T", "B", "KB", "MB", "GB", "KiB", "MiB", "GiB", "us", "ms", "s"]
FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90)


@given(FINITE.filter(lambda x: x == 0 or abs(x) > 1e-90), st.sampled_from(UNITS))
def test_a_quantity_prints_as_it_is_read(value: float, unit: str) -> None:
    quantity = Quantity(value, unit)
    assert Quantity.parse(str(quantity)) == quantity
    assert re.search(json_schema()["anyOf"][1]["pattern"], str(quantity))


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="0123456789.eE+-%ppKMGBi ms", max_size=12))
def test_text_parses_or_is_refused_with_a_value_error(text: str) -> None:
    with suppress(ValueError):
        quantity = Quantity.parse(text)
        assert Quantity.parse(str(quantity)) == quantity


@given(st.integers(0, 10**15), st.integers(0, 10_000))
def test_a_share_is_exact(original: int, hundredths: int) -> None:
    share = Quantity.parse(f"{hundredths // 100}.{hundredths % 100:02}%")
    assert share.limit(original) == original * hundredths // 10_000


@pytest.mark.parametrize(
    ("text", "kind", "base", "printed"),
    [
        ("40%", "percent", 40, "40%"),
        ("1pp", "points", 1, "1pp"),
        (" 1.2 G ", "absolute", 1.2e9, "1.2G"),
        ("5M", "absolute", 5e6, "5M"),
        ("20MB", "bytes", 20e6, "20MB"),
        ("1KiB", "bytes", 1024, "1KiB"),
        ("8ms", "seconds", 0.008, "8ms"),
        (0.5, "absolute", 0.5, "0.5"),
        (7, "absolute", 7, "7"),
    ],
)
def test_units(text: str | float, kind: str, base: float, printed: str) -> None:
    quantity = Quantity.parse(text)
    assert (quantity.kind, quantity.base, str(quantity)) == (kind, base, printed)


@pytest.mark.parametrize("text", ["nan", "inf", "40 %%", "1,5", "%", "", "1e999", "0x10", "٣%", "1__0"])
def test_what_is_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|has an unknown unit"):
        Quantity.parse(text)


def test_the_amount_of_a_count_is_exact() -> None:
    assert Quantity.parse("1.2G").limit(0) == 1_200_000_000
    assert Quantity.parse("0.1K").limit(0) == 100
    assert Quantity.parse("40%").limit(10) == 4
