"""schema: values of every type from outside, and one line that says what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from configurations import refusal

from citrus_lirpa.errors import CheckpointError, ConfigError
from citrus_lirpa.formats import numbers, schema
from citrus_lirpa.formats.schema import Fraction, PositiveFraction, Size, Text


@schema.checked("pan")
class Pan:
    size: Size
    depth: PositiveFraction = 1.0
    marks: tuple[Fraction, ...] = ()
    lid: schema.Flag = False

    def __post_init__(self) -> None:
        if self.lid and self.size > 9:
            raise ConfigError("pan.lid is true; expected none on a pan above 9")


def fry(oil: float, *, eggs: int = 2, turns: Sequence[float] = (), dish: str, hot: bool = True):
    raise NotImplementedError


RECIPES = {"fry": fry}


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.1", 0.1), (3, 3.0)])
def test_numbers_and_fractions(text, value):
    assert numbers.parse_number(text) == value


@pytest.mark.parametrize("text", ["abc", "1/0", "", "1/2/3", "8//255"])
def test_what_is_neither_number_nor_fraction(text):
    assert f"'{text}' is not a number" in refusal(numbers.parse_number, text)


def test_a_checked_class_takes_numbers_fractions_and_lists():
    pan = Pan(size=3, depth="1/4", marks=[1, "1/2"])
    assert (pan.depth, pan.marks, type(pan.marks[0])) == (0.25, (1.0, 0.5), float)
    assert replace(pan, size=4) == Pan(4, 0.25, (1.0, 0.5))
    with pytest.raises(AttributeError):
        pan.size = 4


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"sise": 3}, "unknown key in pan 'sise'; did you mean 'size'?"),
        ({}, "pan.size is missing; give it in [pan]"),
        ({"size": True}, "pan.size is True; expected a whole number"),
        ({"size": 3.0}, "pan.size is 3.0; expected a whole number"),
        ({"size": "3"}, "pan.size is '3'; expected a whole number"),
        ({"size": 0}, "pan.size is 0; expected a number > 0"),
        ({"size": 3, "depth": "a/4"}, "pan.depth: 'a/4' is not a number; expected one like"),
        ({"size": 3, "depth": True}, "pan.depth is True; expected a number"),
        ({"size": 3, "depth": float("inf")}, "pan.depth is inf; expected a finite number"),
        ({"size": 3, "marks": 1}, "pan.marks is 1; expected a list"),
        ({"size": 3, "marks": [1, None]}, "pan.marks.1 is None; expected a number"),
        ({"size": 3, "lid": 1}, "pan.lid is 1; expected true or false"),
        ({"size": 10, "lid": True}, "pan.lid is true; expected none on a pan above 9"),
    ],
)
def test_a_checked_class_refuses(values, line):
    assert refusal(Pan, **values).startswith(line)


def test_options_of_a_registered_function():
    given = {"dish": "omelette", "turns": [1, "1/2"]}
    found = schema.options("fry", RECIPES, given, "cook")
    assert list(found.items()) == [("dish", "omelette"), ("turns", (1.0, 0.5))]


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("fri", {}, "unknown cook.name 'fri'; did you mean 'fry'?"),
        (None, {}, "unknown cook.name 'None'"),
        ("fry", {}, "cook.dish is missing; give it in [cook]"),
        ("fry", {"dish": "x", "oil": 3}, "unknown key in cook (of fry) 'oil'"),
        ("fry", {"dish": "x", "eggs": 1.5}, "cook.eggs is 1.5; expected a whole number"),
        ("fry", {"dish": 3}, "cook.dish is 3; expected a text"),
    ],
)
def test_options_that_are_refused(name, values, line):
    assert refusal(schema.options, name, RECIPES, values, "cook").startswith(line)


@dataclass(frozen=True)
class Shelf:
    pans: dict[str, Size]
    name: Text = "top"


def test_a_file_is_read_and_its_unknown_keys_are_passed_over():
    values = {"pans": {"small": 1}, "colour": "red"}
    assert schema.read(Shelf, values, Path("f"), "buy one") == Shelf({"small": 1})
    with pytest.raises(CheckpointError, match="f: pans.small is 0; expected a number > 0; buy one"):
        schema.read(Shelf, {"pans": {"small": 0}}, Path("f"), "buy one")
