"""How the process logs: one line an event, JSON or text, with the ids of its request and its trace.

Everything goes through the standard library's root logger: the service's own events and what libraries say look the
same, and one filter or handler there sees both.
"""

import logging
import sys
from typing import Final

import structlog
from asgi_correlation_id import correlation_id
from opentelemetry import trace
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor

from service.redaction import RedactingFormatter, redacting, secrets_in
from service.settings import Settings

_OWN: Final = "service"


def configure_logs(settings: Settings) -> None:
    """Log to stderr from now on: the service from `log_level`, libraries from `warning`."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*_EVERY_LINE, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    logging.getLogger(_OWN).setLevel(level)
    logging.basicConfig(level=max(logging.WARNING, level), handlers=[_handler(settings)], force=True)


def _handler(settings: Settings) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    is_text = settings.log.format == "text" or (settings.log.format == "auto" and sys.stderr.isatty())
    shown: list[Processor] = [_TEXT] if is_text else [structlog.processors.format_exc_info, _JSON]
    formatter = ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *_EVERY_LINE],
        processors=[ProcessorFormatter.remove_processors_meta, *shown],
    )
    handler.setFormatter(RedactingFormatter(formatter, redacting(secrets_in(settings))))
    return handler


def _add_request_id(_: object, __: str, event: EventDict) -> EventDict:
    if request_id := correlation_id.get():
        event["request_id"] = request_id
    return event


def _add_trace_id(_: object, __: str, event: EventDict) -> EventDict:
    here = trace.get_current_span().get_span_context()
    if here.is_valid:
        event["trace_id"] = trace.format_trace_id(here.trace_id)
        event["span_id"] = trace.format_span_id(here.span_id)
    return event


_EVERY_LINE: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
    _add_request_id,
    _add_trace_id,
)
_JSON: Final = structlog.processors.JSONRenderer(ensure_ascii=False)
# The default would show every variable of a traceback, questions and passages among them.
_TEXT: Final = structlog.dev.ConsoleRenderer(
    colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
)
