"""A streamed answer, event by event."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rankrag.errors import error_from_event
from rankrag.types import Answer, Citation, FoundPassage, Passage


@dataclass(frozen=True, slots=True)
class Found:
    """What was retrieved, in the retriever's order, and for which question if it was rewritten."""

    passages: tuple[FoundPassage, ...]
    rewritten_question: str | None = None


@dataclass(frozen=True, slots=True)
class Reranked:
    """What was kept, best first."""

    passages: tuple[Passage, ...]
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation of the answer so far."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class Final:
    """The whole answer, which comes last."""

    answer: Answer


Event: TypeAlias = Found | Reranked | Delta | Cited | Final


def event_of(body: Mapping[str, Any]) -> Event | None:
    """None for an event that this version doesn't know.

    Raises:
        RankRAGError: it is the one that says that there will be no answer.
    """
    match body["type"]:
        case "search_results":
            return Found(tuple(map(FoundPassage.of, body["passages"])), body.get("rewritten_question"))
        case "rerank":
            return Reranked(tuple(map(Passage.of, body["passages"])), tuple(body["degraded"]))
        case "answer.delta":
            return Delta(body["text"])
        case "citation":
            return Cited(Citation.of(body))
        case "final":
            return Final(Answer.of(body))
        case "error":
            raise error_from_event(body)
        case _:
            return None


@dataclass(slots=True)
class Decoder:
    """Bytes of a stream of server-sent events, in whatever pieces they come, to events.

    Every event of the service is one `data` line of JSON that has its type, so that nothing else of the format is
    looked at. Lines end with LF or CRLF; other characters that end a line in Python may stand in the JSON.
    """

    rest: bytes = field(default=b"", init=False)

    def feed(self, piece: bytes) -> Iterator[Event]:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (event := event_of(json.loads(line[5:]))) is not None:
                yield event
