"""What generated requests must not ask for, so that whatever fails is the service's fault."""

from typing import Any

import schemathesis

LONG_MS = 60_000


def give_time(case: schemathesis.Case[Any]) -> None:
    """Lengthens deadlines that are too short to keep: their 504 is what was asked for. Bad ones stay bad."""
    if isinstance(case.body, dict) and _is_short(case.body.get("deadline_ms")):
        case.body = {**case.body, "deadline_ms": LONG_MS}
    if _is_short(case.headers.get("X-Deadline-Ms")):
        case.headers["X-Deadline-Ms"] = str(LONG_MS)


def _is_short(given_ms: Any) -> bool:
    try:
        return 0 < float(given_ms) < LONG_MS
    except (TypeError, ValueError, OverflowError):
        return False
