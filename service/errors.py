"""Every error of the service, which is also its HTTP table.

RankRAGError                 500 internal_error
├── ConfigError              500 config_error          settings, prompt file, manifest: stops the start
├── CheckpointError          500 checkpoint_error      the served model cannot rank: stops the start
├── CorpusError              500 corpus_error          a corpus row is bad: stops an index build
├── RequestError             422 invalid_request       a field is wrong; names it and its limit
│   ├── TooLargeError        413 request_too_large     the body or a list is over its limit
│   ├── HeadersTooLargeError 431 headers_too_large     the headers are over their limit
│   └── SlowRequestError     408 request_timeout       the body did not come in time
├── UnauthenticatedError     401 unauthenticated       no API key, or one that is not known
├── ForbiddenError           403 forbidden             this key lacks the scope that the path needs
├── NotFoundError            404 not_found             no such path
├── MethodNotAllowedError    405 method_not_allowed    this path has other methods
├── EngineError              503 engine_unavailable    vLLM is down, not verified yet, or gave no usable answer
│   ├── EngineOverloadedError 503 engine_overloaded    vLLM refuses more work for now
│   └── EngineRefusedError   502 engine_refused        vLLM refuses this very request
├── RerankGatedError         503 rerank_gated          the checkpoint has not passed the ranking gate
├── OverloadedError          429 overloaded            more work waits than can be done in time
├── RateLimitedError         429 rate_limited          this caller has asked as often as it may for now
├── ShuttingDownError        503 shutting_down         not done before this process had to end
├── IndexUnavailableError    503 index_unavailable     no index is loaded, or its files were written to
├── RetrievalError           500 retrieval_failed      the encoder or the index failed
└── DeadlineError            504 deadline_exceeded     not done in the time the request has

tests/test_errors.py checks this drawing against the classes.
"""

from collections.abc import Iterator
from typing import ClassVar


class RankRAGError(Exception):
    """Base of all; `retry_after_s` is set where trying again later can help."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after_s: int | None = None

    def __init__(
        self, message: str, *, field: str | None = None, limit: int | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        self.message = message
        self.field = field
        self.limit = limit


class ConfigError(RankRAGError):
    code = "config_error"


class CheckpointError(RankRAGError):
    code = "checkpoint_error"


class CorpusError(RankRAGError):
    code = "corpus_error"


class RequestError(RankRAGError):
    status = 422
    code = "invalid_request"


class TooLargeError(RequestError):
    status = 413
    code = "request_too_large"


class HeadersTooLargeError(RequestError):
    status = 431
    code = "headers_too_large"


class SlowRequestError(RequestError):
    status = 408
    code = "request_timeout"


class UnauthenticatedError(RankRAGError):
    status = 401
    code = "unauthenticated"


class ForbiddenError(RankRAGError):
    status = 403
    code = "forbidden"


class NotFoundError(RankRAGError):
    status = 404
    code = "not_found"


class MethodNotAllowedError(RankRAGError):
    status = 405
    code = "method_not_allowed"


class EngineError(RankRAGError):
    status = 503
    code = "engine_unavailable"
    retry_after_s: int | None = 2


class EngineOverloadedError(EngineError):
    code = "engine_overloaded"
    retry_after_s = 1


class EngineRefusedError(EngineError):
    status = 502
    code = "engine_refused"
    retry_after_s = None


class RerankGatedError(RankRAGError):
    """The verdict is still to come, or only another checkpoint or the operator can change it."""

    status = 503
    code = "rerank_gated"
    retry_after_s = 60


class OverloadedError(RankRAGError):
    """`retry_after_s` is when, at the present rate, there will be room."""

    status = 429
    code = "overloaded"
    retry_after_s = 1


class RateLimitedError(RankRAGError):
    """`retry_after_s` is when the caller may ask again."""

    status = 429
    code = "rate_limited"
    retry_after_s = 1


class ShuttingDownError(RankRAGError):
    """Another replica, or this one's successor, can do it at once."""

    status = 503
    code = "shutting_down"
    retry_after_s = 1


class IndexUnavailableError(RankRAGError):
    status = 503
    code = "index_unavailable"
    retry_after_s = 5


class RetrievalError(RankRAGError):
    code = "retrieval_failed"


class DeadlineError(RankRAGError):
    status = 504
    code = "deadline_exceeded"


def error_tree(root: type[RankRAGError] = RankRAGError) -> Iterator[type[RankRAGError]]:
    """The class and everything below it."""
    yield root
    for child in root.__subclasses__():
        yield from error_tree(child)
