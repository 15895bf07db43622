"""Types of the values of arguments and options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, InputError
from ..formats.numbers import parse_number
from ..imports import is_code, permit_code
from .choices import DATASETS

FILE = click.Path(path_type=Path)


class Number(click.ParamType):
    """A number or a fraction such as 8/255."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read the number."""
        try:
            return parse_number(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Data(click.Choice):
    """A data set by name, or a user's own data."""

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the name, or where the data is, whose code may run from now on."""
        if value in DATASETS:
            return super().convert(value, param, ctx)
        from ..data import datasets, own  # which import torch

        try:
            return value if datasets.is_known(value) else own.named(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class Code(click.ParamType):
    """A function or class in a file or module of the user."""

    name = "code"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return its name, and let it run from now on."""
        if not is_code(value):
            expected = "FILE.py:NAME, MODULE:NAME or ctrain:ARCHITECTURE"
            self.fail(f"{value!r} names no code; expected {expected}", param, ctx)
        return permit_code(value)


class Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Read the numbers."""
        try:
            return tuple(parse_number(part) for part in value.split(","))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Setting(click.ParamType):
    """A name and a value, as NAME=VALUE."""

    name = "setting"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Return both."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"-{0,2}([a-z][a-z-]*)=(.+)", value)
        if found is None:
            self.fail(f"{value!r} has no value; expected NAME=VALUE, as time=4:00:00", param, ctx)
        return found[1], found[2]


class Images(click.ParamType):
    """Numbers of images, such as 0,5,7."""

    name = "numbers"

    def convert(self, value, param, ctx) -> list[int]:
        """Read the numbers."""
        if isinstance(value, list):
            return value
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", value, re.ASCII):
            self.fail(f"{value!r} is not a list of image numbers such as 0,5,7", param, ctx)
        return [int(number) for number in value.split(",")]


class NetworkFile(click.ParamType):
    """A network of a query and its file."""

    name = "name=file"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Path]:
        """Return both."""
        if isinstance(value, tuple):
            return value
        name, _, path = value.partition("=")
        if not (name and path):
            self.fail(f"{value!r} is not of the form NAME=FILE.onnx", param, ctx)
        return name, Path(path)
