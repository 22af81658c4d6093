"""Filters as callers write them, and what they say of one passage: by plain Python, for comparison."""

import operator
from collections.abc import Mapping
from typing import Any

from service.api.filters import FilterBody, as_filter
from service.types import AnyOf, Bound, Every, Filter, Metadata, Not, Some

_COMPARISONS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def where(document: Mapping[str, Any]) -> Filter:
    return as_filter(FilterBody.model_validate(document))


def passes(metadata: Metadata, filter_: Filter) -> bool:
    match filter_:
        case Every(parts):
            return all(passes(metadata, part) for part in parts)
        case Some(parts):
            return any(passes(metadata, part) for part in parts)
        case Not(part):
            return not passes(metadata, part)
        case AnyOf(field, values):
            return metadata.get(field) in values
        case Bound(field, op, value):
            given = metadata.get(field)
            return given is not None and bool(_COMPARISONS[op](given, value))
