"""Values from outside, checked by their types: what is wrong becomes one line with its key.

Tables that people write are classes declared with :func:`checked`; records in files are plain
dataclasses that :func:`read` makes; :func:`options` checks the options of registered functions
against their signatures. pydantic compares the types, and coerces no value to another type.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
)
from pydantic import dataclasses as pydantic_dataclasses
from pydantic.types import AllowInfNan, Strict
from typing_extensions import NotRequired, TypedDict, dataclass_transform

from ..errors import CheckpointError, ConfigError, expect_known, unknown, without_path
from .numbers import parse_number

T = TypeVar("T")


def _from_text(value: Any) -> Any:
    return parse_number(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ConfigError(f"{text!r:.40} is not a word")
    return text


# The types of checked values. Whole numbers count as numbers; true and false do not.
Flag = StrictBool
Text = StrictStr
Word = Annotated[Text, AfterValidator(_printable)]
Whole = StrictInt
Count = Annotated[Whole, Field(ge=0)]
Size = Annotated[Whole, Field(gt=0)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
#: A number that may also be a fraction in a string, for values that people write.
Fraction = Annotated[Number, BeforeValidator(_from_text)]
PositiveFraction = Annotated[Number, Field(gt=0), BeforeValidator(_from_text)]
NonNegativeFraction = Annotated[Number, Field(ge=0), BeforeValidator(_from_text)]

_OPTIONS = {bool: Flag, str: Text, int: Whole, float: Fraction}


@dataclass_transform(frozen_default=True)
def checked(table: str) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass whose values are checked by their types whenever one is made.

    Lists become tuples, and unknown keys are refused. A ``__post_init__`` checks what types
    cannot say, and raises ConfigError.

    Args:
        table: Name that stands in front of the keys in messages.
    """

    def decorate(kind: type[T]) -> type[T]:
        config = ConfigDict(extra="forbid")
        made: Any = pydantic_dataclasses.dataclass(frozen=True, config=config)(kind)
        check = made.__init__

        @wraps(check)
        def init(self: Any, *args: Any, **values: Any) -> None:
            try:
                check(self, *args, **values)
            except ValidationError as error:
                known = [field.name for field in fields(made)]
                raise ConfigError(_reworded(error, table, table, known)) from None

        made.__init__ = init
        return made

    return decorate


def options(
    name: object, registry: Mapping[str, Callable[..., Any]], values: Mapping[str, Any], table: str
) -> dict[str, Any]:
    """Check the keyword-only options of a registered function.

    Args:
        name: Name of the function.
        registry: The functions by name.
        values: The options by name.
        table: Name of the table that they stand in, for messages.

    Returns:
        The options in their order, with fractions as numbers and lists as tuples.

    Raises:
        ConfigError: The function or an option is unknown, an option is missing or of a wrong type.
    """
    expect_known(f"{table}.name", name, registry)
    function = registry[typing.cast(str, name)]
    try:
        found = _adapter(function).validate_python(dict(values))
    except ValidationError as error:
        known = ["name", *options_of(function)]
        raise ConfigError(_reworded(error, table, f"{table} (of {name})", known)) from None
    return {key: found[key] for key in values}


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only options of a registered function, with their types."""
    hints = typing.get_type_hints(function)
    return {option.name: hints[option.name] for option in _keywords(function)}


def knows(registry: Mapping[str, Any], name: object) -> bool:
    """Return whether ``name``, which may be any value, is the name of a registered function."""
    return isinstance(name, str) and name in registry


def read(kind: type[T], values: Mapping[str, Any], file: Path, remedy: str) -> T:
    """Make a dataclass of the values of a file; keys that it does not know are passed over.

    Raises:
        CheckpointError: A value is missing or wrong; the ``remedy`` ends the line.
    """
    try:
        return _reader(kind).validate_python(values)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {_reworded(error)}; {remedy}") from None


def read_text(file: Path, remedy: str) -> str:
    """Read a text file; the CheckpointError where that fails ends in the ``remedy``."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = without_path(error)
        raise CheckpointError(f"{file} cannot be read: {reason}; {remedy}") from error


def parse(text: str, parser: Callable[[str], Any], file: Path, remedy: str) -> dict[str, Any]:
    """Parse the text of a file that holds one table; the parser raises ValueError.

    Raises:
        CheckpointError: The text is malformed, or no table of values; the ``remedy`` ends the line.
    """
    try:
        values = parser(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; {remedy}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds {values!r:.40}; expected a table; {remedy}")
    return values


_reader: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


# -- options --------------------------------------------------------------------------


def _keywords(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


@cache
def _adapter(function: Callable[..., Any]) -> TypeAdapter[Any]:
    types = {name: _strict(kind) for name, kind in options_of(function).items()}
    for option in _keywords(function):
        if option.default is not option.empty:
            types[option.name] = NotRequired[types[option.name]]
    make: Any = TypedDict  # mypy wants a literal
    table = make("table", types)
    table.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(table)


def _strict(annotation: Any) -> Any:
    """The checked type of an option's annotation; lists become tuples."""
    if typing.get_origin(annotation) is None:
        return _OPTIONS.get(annotation, annotation)
    return tuple[_strict(typing.get_args(annotation)[0]), ...]  # type: ignore[misc]


# -- messages -------------------------------------------------------------------------

#: What was expected, by pydantic's name of the mistake.
_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number > {gt:.10g}",
    "greater_than_equal": "a number >= {ge:.10g}",
    "int_type": "a whole number",
    "less_than_equal": "a number <= {le:.10g}",
    "string_type": "a text",
    "too_short": "more entries",
    "tuple_type": "a list",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def _reworded(
    error: ValidationError, table: str = "", whole: str = "", known: Iterable[str] = ()
) -> str:
    """The first mistake in one line; unknown keys go before missing ones, and those before others.

    table: stands in front of keys; whole, known: what an unknown key is no key of, and its keys.
    """
    mistakes = error.errors(include_url=False)
    mistake = min(mistakes, key=lambda m: (m["type"] not in _UNKNOWN, m["type"] != "missing"))
    kind, place, context = mistake["type"], mistake["loc"], mistake.get("ctx", {})
    key = ".".join(map(str, (table, *place) if table else place))
    if kind in _UNKNOWN:
        return unknown(f"key in {whole}", place[-1], known)
    if kind == "missing":
        return f"{key} is missing; give it in [{table}]" if table else f"{key} is missing"
    if "error" in context:
        return f"{key}: {context['error']}" if place else str(context["error"])
    other = mistake["msg"].removeprefix("Input should be ")
    expected = _EXPECTED[kind].format_map(context) if kind in _EXPECTED else other
    return f"{key} is {mistake['input']!r:.40}; expected {expected}"
