"""Which passages pass a filter, decided on columns of metadata.

A passage without a field has null there. Logic has two values: a comparison with null is false, and `Not` is the
plain complement, so that passages without a year do pass "not after 1900". Numbers are compared as floats, texts by
code point.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from service.errors import RequestError
from service.types import AnyOf, Bound, Every, Filter, MetadataValue, Not, Some

COLUMN_TYPES: Final[Mapping[type, pa.DataType]] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.float64(),
    float: pa.float64(),
}
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "gt": pc.greater,
    "gte": pc.greater_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
}


def describe(type_: pa.DataType) -> str:
    return {pa.string(): "text", pa.bool_(): "true or false"}.get(type_, "a number")


def column_value(value: MetadataValue) -> MetadataValue:
    """`value` as its column holds it: -0.0 is 0.0, and a whole number beyond all floats is infinite."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value
    try:
        return float(value) + 0.0  # makes 0.0 of -0.0, which Arrow keeps apart
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def leaves(filter_: Filter) -> Iterator[AnyOf | Bound]:
    """The conditions on single fields, in their order."""
    match filter_:
        case Every(parts) | Some(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case AnyOf() | Bound():
            yield filter_


def check_fields(filter_: Filter, types: Mapping[str, pa.DataType]) -> None:
    """Whether the conditions are about fields that exist, of these types.

    Raises:
        RequestError: a field that no passage has, or a value that its values can't be compared with.
    """
    for leaf in leaves(filter_):
        if leaf.field not in types:
            raise _refusal(
                leaf, f": no passage has this metadata field; there are: {', '.join(sorted(types)) or 'none'}"
            )
        for value in leaf.values if isinstance(leaf, AnyOf) else (leaf.value,):
            _check_value(leaf, value, types[leaf.field])


def _check_value(leaf: AnyOf | Bound, value: MetadataValue, type_: pa.DataType) -> None:
    if isinstance(leaf, Bound) and type_ == pa.bool_():
        raise _refusal(leaf, f" is {describe(type_)}, which has no `{leaf.op}`")
    if value is not None and COLUMN_TYPES[type(value)] != type_:
        raise _refusal(leaf, f" compares with {describe(type_)}, not {describe(COLUMN_TYPES[type(value)])}")


def _refusal(leaf: AnyOf | Bound, reason: str) -> RequestError:
    field = f"filters.{leaf.field}"
    return RequestError(field + reason, field=field)


def passing(filter_: Filter, column: Callable[[str], Any], num_rows: int) -> NDArray[np.int64]:
    """The rows that pass, ascending; `column` gives the Arrow column of a field. O(n) a condition, vectorised."""
    return np.flatnonzero(np.asarray(_mask(filter_, column, num_rows))).astype(np.int64)


def _mask(filter_: Filter, column: Callable[[str], Any], num_rows: int) -> Any:
    """(num_rows,) booleans without nulls."""
    match filter_:
        case AnyOf(field, values):
            values_in = column(field)
            wanted = pa.array([column_value(value) for value in values], type=values_in.type)
            return pc.is_in(values_in, value_set=wanted)
        case Bound(field, op, value):
            return pc.fill_null(_COMPARISONS[op](column(field), _scalar(value)), False)
        case Every(parts):
            return reduce(pc.and_, [_mask(part, column, num_rows) for part in parts], _all(num_rows, True))
        case Some(parts):
            return reduce(pc.or_, [_mask(part, column, num_rows) for part in parts], _all(num_rows, False))
        case Not(part):
            return pc.invert(_mask(part, column, num_rows))


def _scalar(value: str | float) -> Any:
    return pa.scalar(value if isinstance(value, str) else float(column_value(value) or 0))


def _all(num_rows: int, value: bool) -> Any:
    return pa.array(np.full(num_rows, value))
