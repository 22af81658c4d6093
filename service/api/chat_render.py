"""Answers as OpenAI's chat completions, whole and in chunks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from sse_starlette import ServerSentEvent

from service.api.access_log import timings_ms
from service.api.chat_schemas import (
    Annotation,
    ChatAnswer,
    ChatChoice,
    ChatResponse,
    ChatUsage,
    FinishReason,
    Sources,
    UrlCitation,
)
from service.api.errors import error_body
from service.api.render import citation_body, passage_body
from service.errors import RankRAGError
from service.pipeline import Delta, Event
from service.types import Answer, Citation, Passage

_WEB: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Completion:
    """What all parts of one completion have in common; `created` is in seconds since 1970."""

    id: str
    created: int
    model: str


def completion_body(answer: Answer, completion: Completion) -> ChatResponse:
    message = ChatAnswer(content=answer.text, annotations=_annotations(answer))
    sources = _sources(answer)
    return ChatResponse(
        id=completion.id,
        created=completion.created,
        model=completion.model,
        choices=[ChatChoice(message=message, finish_reason=_finish_reason(answer))],
        usage=_usage(answer),
        citations=sources.citations,
        rag=sources,
    )


@dataclass(slots=True)
class ChatChunks:
    """The Wording of a stream of chunks: the role, the text, then the reason of its end with the sources."""

    completion: Completion
    wants_usage: bool
    _is_begun: bool = field(default=False, init=False)
    _has_text: bool = field(default=False, init=False)

    def tell(self, event: Event) -> Iterator[ServerSentEvent]:
        if not self._is_begun:
            self._is_begun = True
            yield self._chunk({"role": "assistant", "content": ""})
        match event:
            case Delta(text):
                yield from self._text(text)
            case Answer():
                yield from self._end(event)

    def fail(self, error: RankRAGError) -> Iterator[ServerSentEvent]:
        yield _event(error_body(error).model_dump())

    def _text(self, text: str) -> Iterator[ServerSentEvent]:
        self._has_text = True
        yield self._chunk({"content": text})

    def _end(self, answer: Answer) -> Iterator[ServerSentEvent]:
        """A known answer, or that there is none, has not been told before."""
        if not self._has_text:
            yield from self._text(answer.text)
        sources = _sources(answer).model_dump()
        annotations = [annotation.model_dump() for annotation in _annotations(answer)]
        yield self._chunk(
            {"annotations": annotations}, _finish_reason(answer), citations=sources["citations"], rag=sources
        )  # fmt: skip
        if self.wants_usage:
            yield self._event([], usage=_usage(answer).model_dump())
        yield ServerSentEvent("[DONE]")

    def _chunk(
        self, delta: dict[str, Any], finish_reason: FinishReason | None = None, **extensions: Any
    ) -> ServerSentEvent:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event([choice], **({"usage": None} if self.wants_usage else {}), **extensions)

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> ServerSentEvent:
        made = self.completion
        head = {"id": made.id, "object": "chat.completion.chunk", "created": made.created, "model": made.model}
        return _event({**head, "choices": choices, **more})


def _event(body: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(body, ensure_ascii=False))


def _finish_reason(answer: Answer) -> FinishReason:
    return "length" if answer.is_unfinished else "stop"


def _usage(answer: Answer) -> ChatUsage:
    usage = answer.usage
    return ChatUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _sources(answer: Answer) -> Sources:
    return Sources(
        citations=[citation_body(citation) for citation in answer.citations],
        passages=[passage_body(passage) for passage in answer.passages],
        abstained=answer.abstained,
        degraded=list(answer.degraded),
        rewritten_question=answer.rewritten_question,
        timings_ms=timings_ms(answer.timings),
    )


def _annotations(answer: Answer) -> list[Annotation]:
    """One for each source of each citation."""
    by_id = {kept.passage.id: kept.passage for kept in answer.passages}
    return [_annotation(citation, by_id[id_]) for citation in answer.citations for id_ in citation.passage_ids]


def _annotation(citation: Citation, passage: Passage) -> Annotation:
    cited = UrlCitation(
        start_index=citation.start, end_index=citation.end, title=passage.title or passage.id, url=url_of(passage)
    )  # fmt: skip
    return Annotation(url_citation=cited)


def url_of(passage: Passage) -> str:
    """Its own address on the web, if its metadata has one (no `javascript:` gets to who makes links of them)."""
    url = passage.metadata.get("url")
    if isinstance(url, str) and url.startswith(_WEB):
        return url
    return f"urn:rankrag:passage:{quote(passage.id, safe='', errors='replace')}"
