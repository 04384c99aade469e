"""What a parameter may look like: each shape is a check and the JSON Schema that says the same.

Law: a shape knows no state, clock or method. Its check returns the value to use or raises Fault, and never changes what
it was given. Wrong kinds and values below a minimum are `invalid_params`; well-formed values above a stated maximum are
`limit`, never clamped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from gastown.model import INT64_MAX, INT64_MIN, Refused

Check = Callable[[Any], Any]
Schema = dict[str, Any]

FIELD_CHARS_MAX: Final = 64  # of a caller's own spelling repeated in a refusal: enough to find the typing error
# C0, DEL and C1 controls, line separators and direction overrides: what lets a name forge a line of a log or terminal
CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
NO_STEP: Final = frozenset(("", ".", ".."))  # parts of a path that name nothing below it
SECONDS_CHARS: Final = 19  # of an instant up to its seconds: 2026-01-31T23:59:59


class Fault(Exception):
    """A value that does not fit, with the way to it, innermost step first."""

    def __init__(self, kind: str, advice: str, maximum: int | None = None, at: str | None = None) -> None:
        super().__init__(advice)
        self.kind = kind
        self.advice = advice
        self.maximum = maximum
        self.steps: list[str | int] = [] if at is None else [at]

    def refused(self) -> Refused:
        """The refusal to send: `field` is the way to the value, `limit` the name of the bound."""
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(self.steps))[1:]
        message = f"{place or 'params'}: {self.advice}"
        if self.maximum is None:
            return Refused(self.kind, message, field=place or "params")
        bound = next((step for step in self.steps if isinstance(step, str)), "params")
        return Refused(self.kind, message, limit=bound, max=self.maximum, field=place)


def wrong(advice: str, at: str | None = None) -> Fault:
    return Fault("invalid_params", advice, at=at)


def over(maximum: int, unit: str) -> Fault:
    return Fault("limit", f"at most {maximum}{unit and ' '}{unit}", maximum)


def short(spelling: str) -> str:
    """A caller's spelling made harmless: printable ASCII, bounded."""
    return spelling[:FIELD_CHARS_MAX].encode("unicode_escape").decode()


@dataclass(frozen=True, slots=True)
class Shape:
    check: Check
    schema: Schema


def integer(minimum: int, maximum: int = INT64_MAX) -> Shape:
    """A whole number written as one: 1.0, 1e3 and true are refused."""

    def check(value: Any) -> int:
        if type(value) is not int or value < minimum:
            raise wrong(f"must be a whole number from {minimum}")
        if value > maximum:
            raise over(maximum, "") if value <= INT64_MAX else wrong("must fit in 64 bits, signed")
        return value

    return Shape(check, {"type": "integer", "minimum": minimum, "maximum": maximum})


def text(minimum: int = 0, chars: int | None = None) -> Shape:
    """Any characters, at least `minimum` of them, at most `chars` (else bounded by the request)."""

    def check(value: Any) -> str:
        if type(value) is not str:
            raise wrong("must be a string")
        if len(value) < minimum:
            raise wrong("must not be empty")
        if chars is not None and len(value) > chars:
            raise over(chars, "characters")
        return value

    return Shape(check, _string(minLength=minimum or None, maxLength=chars))


def utf8() -> Shape:
    """A text of any length, handed on as its UTF-8 bytes; a long one arrives as bytes already."""

    def check(value: Any) -> bytes:
        if type(value) is bytes:
            return value
        if type(value) is not str:
            raise wrong("must be a string")
        return value.encode()

    return Shape(check, _string())


def line(size: int, minimum: int = 1, printable: bool = True) -> Shape:
    """At most `size` bytes; unless `printable` is False, one line without control characters."""

    def check(value: Any) -> str:
        if type(value) is not str:
            raise wrong("must be a string")
        if len(value) < minimum:
            raise wrong("must not be empty")
        if len(value) * 4 > size and len(value.encode()) > size:
            raise over(size, "bytes")
        if "\0" in value:
            raise wrong("must not hold NUL")
        if printable and not (value.isascii() and value.isprintable()) and CONTROL.search(value):
            raise wrong("must not hold control characters")
        return value

    return Shape(check, _string(minLength=minimum or None, **{"x-maxBytes": size}))


def name(size: int) -> Shape:
    """A line that a person gives to a thing: not blank, and never a way out of a folder."""
    within = line(size).check

    def check(value: Any) -> str:
        value = within(value)
        if not value.strip():
            raise wrong("must not be blank")
        if not NO_STEP.isdisjoint(re.split(r"[/\\]", value)):
            raise wrong("must not be a relative or absolute path")
        return str(value)

    return Shape(check, _string(minLength=1, **{"x-maxBytes": size}))


def pattern(regex: str, advice: str) -> Shape:
    """A string that matches as a whole."""
    compiled = re.compile(regex)

    def check(value: Any) -> str:
        if type(value) is not str or not compiled.fullmatch(value):
            raise wrong(advice)
        return value

    return Shape(check, _string(pattern=f"^{regex}$"))


def one_of(*choices: str) -> Shape:
    def check(value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise wrong("must be one of " + ", ".join(choices))
        return value

    return Shape(check, _string(enum=list(choices)))


def flag() -> Shape:
    def check(value: Any) -> bool:
        if type(value) is not bool:
            raise wrong("must be true or false")
        return value

    return Shape(check, {"type": "boolean"})


def instant() -> Shape:
    """An RFC 3339 time with 0 to 9 fraction digits, kept as it is spelled."""

    def check(value: Any) -> str:
        if type(value) is not str or not INSTANT.fullmatch(value):
            raise wrong("must be an RFC 3339 time such as 2026-01-31T09:00:00Z")
        try:
            datetime.fromisoformat(value[:SECONDS_CHARS])
        except ValueError:
            raise wrong("must be a time that exists") from None
        return value

    return Shape(check, _string(format="date-time", pattern=f"^{INSTANT.pattern}$"))


def array(item: Shape, minimum: int, maximum: int) -> Shape:
    each = item.check

    def check(value: Any) -> list[Any]:
        if type(value) is not list:
            raise wrong("must be an array")
        if len(value) < minimum:
            raise wrong("must not be empty")
        if len(value) > maximum:
            raise over(maximum, "entries")
        checked: list[Any] = []
        try:
            for entry in value:
                checked.append(each(entry))  # as far as it got, for the place of a fault
        except Fault as fault:
            fault.steps.append(len(checked))
            raise
        return checked

    return Shape(check, {"type": "array", "items": item.schema, "minItems": minimum, "maxItems": maximum})


def free_json(size: int, *, record_only: bool) -> Shape:
    """JSON of the caller's own making, at most `size` bytes when written tersely; its integers are int64 too."""

    def check(value: Any) -> Any:
        if record_only and type(value) is not dict:
            raise wrong("must be an object")
        if not _in_range(value):
            raise wrong("holds a number beyond 64 bits; send it as a string")
        if len(orjson.dumps(value)) > size:
            raise over(size, "bytes of JSON")
        return value

    return Shape(check, {"type": "object", "x-maxBytes": size} if record_only else {"x-maxBytes": size})


def nullable(shape: Shape) -> Shape:
    inner = shape.check
    return Shape(lambda value: None if value is None else inner(value), {"oneOf": [shape.schema, {"type": "null"}]})


class _Mark:
    """Stands for what a caller did not send; `None` will not do, null is a value."""


REQUIRED: Final = _Mark()
LEFT_OUT: Final = _Mark()


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a record. `default` fills its place; REQUIRED and LEFT_OUT do what they say."""

    shape: Shape
    default: Any = REQUIRED


def may(shape: Shape, default: Any = None) -> Field:
    """An optional member; absent, its place holds `default`."""
    return Field(shape, default)


def given(shape: Shape) -> Field:
    """An optional member that is there only when it was sent."""
    return Field(shape, LEFT_OUT)


Fields = Mapping[str, Shape | Field]


@dataclass(frozen=True, slots=True)
class Record(Shape):
    """An object with these members and no others."""

    fields: dict[str, Field] = field(default_factory=dict)


def record(members: Fields, also: Callable[[dict[str, Any]], None] | None = None) -> Record:
    """`also` judges members against each other once each has passed alone; it raises Fault."""
    fields = {key: Field(shape) if isinstance(shape, Shape) else shape for key, shape in members.items()}
    names = frozenset(fields)
    steps = tuple((key, member.shape.check, member.default) for key, member in fields.items())

    def check(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise wrong("must be an object")
        if not names.issuperset(value):
            raise _unknown(value, names)
        checked = {}
        key = ""
        try:
            for key, inner, default in steps:
                if key in value:
                    checked[key] = inner(value[key])
                elif default is REQUIRED:
                    raise wrong("is required")
                elif default is not LEFT_OUT:
                    checked[key] = default
        except Fault as fault:
            fault.steps.append(key)
            raise
        if also is not None:
            also(checked)
        return checked

    return Record(check, _object(fields), fields)


def _unknown(value: dict[str, Any], names: frozenset[str]) -> Fault:
    stranger = next(key for key in value if key not in names)
    listed = "is not a field here; known are " + ", ".join(sorted(names)) if names else "takes no fields"
    return wrong(listed, at=short(stranger))


def _in_range(value: Any) -> bool:
    """Whether both bodies can keep every number of a value. Its depth is bounded by the parser, so recursion is."""
    kind = type(value)
    if kind is int:
        return bool(INT64_MIN <= value <= INT64_MAX)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return all(map(_in_range, value.values()))
    return kind is not list or all(map(_in_range, value))


def _string(**bounds: Any) -> Schema:
    return {"type": "string", **{key: bound for key, bound in bounds.items() if bound is not None}}


def _object(fields: dict[str, Field]) -> Schema:
    properties = {key: with_default(member) for key, member in fields.items()}
    required = [key for key, member in fields.items() if member.default is REQUIRED]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def with_default(member: Field) -> Schema:
    """The schema of a member, with the default a caller gets by not sending it."""
    default = member.default
    if default is REQUIRED or default is LEFT_OUT or default is None:
        return member.shape.schema
    return member.shape.schema | {"default": list(default) if isinstance(default, tuple) else default}
