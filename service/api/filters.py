"""`filters` as they come over HTTP: fields that a passage must have, and `and`, `or`, `not` of such objects."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, model_validator

from service.errors import RequestError
from service.settings import LimitSettings
from service.types import NO_FILTER, AnyOf, Bound, Every, Filter, MetadataValue, Not, Some

# What pydantic puts into the path of an error, beside the caller's own names.
_VALUE, _LIST, _COMPARISON = TAGS = "<value>", "<list>", "<comparison>"


def _value(given: object) -> object:
    return (
        given
        if given is None or isinstance(given, bool)
        else _checked(given, "a text, a finite number, true, false or null")
    )


def _comparable(given: object) -> object:
    return _checked(None if isinstance(given, bool) else given, "a text or a finite number")


def _checked(given: object, wanted: str) -> object:
    """Raises ValueError, also for half a surrogate pair, which is no character."""
    if isinstance(given, str):
        given.encode()
    elif not isinstance(given, int | float) or (isinstance(given, float) and not math.isfinite(given)):
        raise ValueError(f"must be {wanted}")
    return given


Value = Annotated[Any, PlainValidator(_value, json_schema_input_type=str | bool | int | float | None)]
Comparable = Annotated[Any, PlainValidator(_comparable, json_schema_input_type=str | int | float)]


class Comparison(BaseModel):
    """All that are given must hold. Texts are compared by code point; passages without the field don't pass."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    in_: list[Value] | None = Field(None, alias="in", description="One of these; null: passages without the field.")
    gt: Comparable = None
    gte: Comparable = None
    lt: Comparable = None
    lte: Comparable = None

    @model_validator(mode="after")
    def _compares(self) -> "Comparison":
        if not self.model_fields_set or (self.in_ is None and "in_" in self.model_fields_set):
            raise ValueError("needs at least one of `in` (a list), `gt`, `gte`, `lt`, `lte`")
        return self

    def conditions(self, field: str) -> Iterator[AnyOf | Bound]:
        if self.in_ is not None:
            yield AnyOf(field, tuple(self.in_))
        for op in ("gt", "gte", "lt", "lte"):
            if op in self.model_fields_set:
                yield Bound(field, op, getattr(self, op))


def _shape(given: Any) -> str:
    if isinstance(given, list):
        return _LIST
    return _COMPARISON if isinstance(given, dict | Comparison) else _VALUE


Condition = Annotated[
    Annotated[Value, Tag(_VALUE)] | Annotated[list[Value], Tag(_LIST)] | Annotated[Comparison, Tag(_COMPARISON)],
    Discriminator(_shape),
]


def _nameable(given: object) -> object:
    """Metadata fields are named by text; the name goes into messages."""
    for name in given if isinstance(given, dict) else ():
        str(name).encode()
    return given


class FilterBody(BaseModel):
    """Every other name is a metadata field, with the value it must have, a list of which one must match, or a
    comparison. All of an object's parts must hold.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Condition]

    and_: "list[Filters] | None" = Field(None, alias="and", min_length=1, description="All of these must hold.")
    or_: "list[Filters] | None" = Field(None, alias="or", min_length=1, description="At least one of these must hold.")
    not_: "Filters | None" = Field(None, alias="not", description="This must not hold.")

    def parts(self) -> Iterator["FilterBody"]:
        yield from self.and_ or ()
        yield from self.or_ or ()
        if self.not_ is not None:
            yield self.not_


Filters = Annotated[FilterBody, BeforeValidator(_nameable)]


def as_filter(body: FilterBody | None) -> Filter:
    """Equal objects make equal filters, whatever the order of their fields."""
    if body is None:
        return NO_FILTER
    parts: list[Filter] = [part for name, wanted in sorted(_named(body).items()) for part in _conditions(name, wanted)]
    parts += [as_filter(part) for part in body.and_ or ()]
    if body.or_ is not None:
        parts.append(Some(tuple(as_filter(part) for part in body.or_)))
    if body.not_ is not None:
        parts.append(Not(as_filter(body.not_)))
    return Every(tuple(parts))


def check_filters(body: FilterBody | None, limits: LimitSettings, field: str = "filters") -> None:
    """Raises RequestError where there are too many conditions, or they are nested too deep."""
    if body is None:
        return
    _check(field, _count(body), limits.max_filters, "conditions")
    _check(field, _depth(body), limits.max_filter_depth, "levels")


def _check(field: str, number: int, limit: int, what: str) -> None:
    if number > limit:
        raise RequestError(f"{field}: {number} {what} given, at most {limit} allowed", field=field, limit=limit)


def _count(body: FilterBody) -> int:
    here = sum(len(list(_conditions(name, wanted))) for name, wanted in _named(body).items())
    return here + sum(_count(part) for part in body.parts())


def _depth(body: FilterBody) -> int:
    return 1 + max((_depth(part) for part in body.parts()), default=0)


def _named(body: FilterBody) -> Mapping[str, Any]:
    return body.model_extra or {}


def _conditions(name: str, wanted: Comparison | list[MetadataValue] | MetadataValue) -> Iterator[AnyOf | Bound]:
    if isinstance(wanted, Comparison):
        yield from wanted.conditions(name)
    else:
        yield AnyOf(name, tuple(wanted) if isinstance(wanted, list) else (wanted,))
