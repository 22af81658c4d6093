"""Bytes of a stream, in whatever pieces, to events."""

import json

import pytest

from rankrag.errors import UnavailableError
from rankrag.events import Cited, Decoder, Delta, Event
from rankrag.types import Citation

ODD = "a\u2028b\u0085c\x0bd 😀 \\n \n \r\n end"


def sent(kind: str, **data: object) -> str:
    body = json.dumps({"type": kind, **data}, ensure_ascii=False)
    return f"id: 1\r\nevent: {kind}\r\ndata: {body}\r\n\r\n"


STREAM = (
    ": ping\r\n\r\n"
    + sent("answer.delta", text=ODD)
    + sent("of a newer service", what=1)
    + sent("citation", start=0, end=2, text="a", sources=[{"id": "x"}, {"id": "y"}])
    + sent("answer.delta", text="end")
).encode()
EVENTS = [Delta(ODD), Cited(Citation(0, 2, "a", ("x", "y"))), Delta("end")]


def decoded(pieces: list[bytes]) -> list[Event]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_pieces_may_end_anywhere(size: int) -> None:
    assert decoded([STREAM[at : at + size] for at in range(0, len(STREAM), size)]) == EVENTS


def test_lines_may_end_with_lf_alone() -> None:
    assert decoded([STREAM.replace(b"\r\n", b"\n")]) == EVENTS


def test_error_event_is_raised() -> None:
    body = {"message": "down", "error": {"code": "engine_unavailable", "param": None}, "request_id": "r"}
    with pytest.raises(UnavailableError, match="down") as caught:
        decoded([sent("error", **body).encode()])
    assert caught.value.request_id == "r"
