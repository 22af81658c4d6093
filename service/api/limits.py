"""Limits that are settings; each violation names the field and the limit."""

from collections.abc import Sequence

from service.api.chat_schemas import ChatMessage, ChatRequest
from service.api.dialects import Ranking
from service.api.filters import check_filters
from service.api.schemas import AnswerRequest, GivenPassage, MessageBody, SearchRequest
from service.errors import RequestError, TooLargeError
from service.settings import LimitSettings


def check_answer(request: AnswerRequest, limits: LimitSettings) -> None:
    """Raises RequestError for the first field over its limit."""
    _check_asked(request, limits)
    _check_number("top_n", request.top_n, limits.max_top_n)
    _check_number("top_k", request.top_k, limits.max_top_k)
    _check_number("max_tokens", request.max_tokens, limits.max_answer_tokens)
    check_filters(request.filters, limits)
    _check_number("deadline_ms", request.deadline_ms, limits.max_deadline_ms)
    if request.passages is not None:
        _check_given(request, request.passages, limits)


def _check_asked(request: AnswerRequest, limits: LimitSettings) -> None:
    """There is one question, and what was said before it is not too long."""
    if (request.question is None) == (request.messages is None):
        raise RequestError("question: give either `question` or `messages`", field="question")
    if request.question is not None:
        _check_text("question", request.question, limits.max_question_chars)
        if request.rewrite:
            raise RequestError("rewrite: only with `messages`: a question alone is what it is", field="rewrite")
    check_messages(request.messages or [], limits)


def check_chat(request: ChatRequest, limits: LimitSettings) -> None:
    """Raises RequestError for the first field over its limit."""
    check_messages(request.messages, limits)
    _check_number("max_tokens", request.max_tokens, limits.max_answer_tokens)
    _check_number("max_completion_tokens", request.max_completion_tokens, limits.max_answer_tokens)
    _check_number("rag.top_n", request.rag.top_n, limits.max_top_n)
    _check_number("rag.top_k", request.rag.top_k, limits.max_top_k)
    check_filters(request.rag.filters, limits, "rag.filters")


def check_messages(messages: Sequence[MessageBody | ChatMessage], limits: LimitSettings) -> None:
    """Raises RequestError where the last one is no question, or all are too long."""
    if not messages:
        return
    field = f"messages.{len(messages) - 1}"
    if messages[-1].role != "user":
        raise RequestError(f"{field}.role: the last message must be the user's: it is the question", field=field)
    _check_text(f"{field}.content", messages[-1].content, limits.max_question_chars)
    num_chars = sum(len(message.content) for message in messages)
    _check_size("messages", num_chars, limits.max_messages_chars)


def _check_given(request: AnswerRequest, passages: Sequence[GivenPassage], limits: LimitSettings) -> None:
    """What says what to retrieve has no meaning beside passages that are given."""
    for field in ("filters", "top_n"):
        if getattr(request, field) is not None:
            raise RequestError(f"{field}: not with `passages`, of which all are scored", field=field)
    _check_number("passages", len(passages), limits.max_top_n)
    for number, passage in enumerate(passages):
        if not passage.text.strip():
            raise RequestError(f"passages.{number}.text: must not be blank", field=f"passages.{number}.text")
        _check_length(f"passages.{number}", passage.text + (passage.title or ""), limits.max_document_chars)


def check_search(request: SearchRequest, limits: LimitSettings) -> None:
    """Raises RequestError for the first field over its limit."""
    _check_text("query", request.query, limits.max_question_chars)
    _check_number("top_n", request.top_n, limits.max_top_n)
    _check_number("deadline_ms", request.deadline_ms, limits.max_deadline_ms)
    check_filters(request.filters, limits)


def check_rerank(ranking: Ranking, deadline_ms: int | None, limits: LimitSettings) -> None:
    """Raises RequestError, or TooLargeError for too many documents."""
    _check_text("query", ranking.query, limits.max_question_chars)
    _check_number("deadline_ms", deadline_ms, limits.max_deadline_ms)
    if len(ranking.passages) > limits.max_documents:
        raise TooLargeError(
            f"{ranking.field}: {len(ranking.passages)} given, at most {limits.max_documents} allowed",
            field=ranking.field,
            limit=limits.max_documents,
        )
    for number, passage in enumerate(ranking.passages):
        _check_length(f"{ranking.field}.{number}", passage.text + passage.title, limits.max_document_chars)


def check_deadline_header(deadline_ms: int | None, limits: LimitSettings) -> None:
    """Raises RequestError, also where the body's own deadline goes before it."""
    _check_number("X-Deadline-Ms", deadline_ms, limits.max_deadline_ms)


def _check_text(field: str, text: str, limit: int) -> None:
    if not text.strip():
        raise RequestError(f"{field}: must not be blank", field=field)
    _check_length(field, text, limit)


def _check_length(field: str, text: str, limit: int) -> None:
    _check_size(field, len(text), limit)


def _check_size(field: str, num_chars: int, limit: int) -> None:
    if num_chars > limit:
        raise RequestError(f"{field}: {num_chars} characters given, at most {limit} allowed", field=field, limit=limit)


def _check_number(field: str, value: int | None, limit: int) -> None:
    if value is not None and value > limit:
        raise RequestError(f"{field}: {value} given, at most {limit} allowed", field=field, limit=limit)
