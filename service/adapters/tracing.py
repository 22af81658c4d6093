"""The Tracer port on OpenTelemetry: spans go to a collector over OTLP (http/protobuf), or nowhere.

Only this module knows the SDK. FastAPI makes the span of the request itself, with the provider from here. What
OpenTelemetry's own variables say of headers, certificates, compression and resources holds.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as WritableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, Link, SpanContext, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.ports import NO_TRACER, Place, Span, Tracer

log = structlog.get_logger(__name__)

EXPORT_TIMEOUT_S: Final = 3.0
REST_S: Final = 10.0
MAX_QUEUED_SPANS: Final = 8192

# What they would say again and again of a collector that is down, `CountedExporter` says once.
_NOISY_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Traces:
    """Where spans are made and sent from; without an exporter there is neither provider nor span."""

    def __init__(self, exporter: SpanExporter | None, *, sample_ratio: float = 1.0) -> None:
        self.provider = None if exporter is None else _provider(exporter, sample_ratio)
        self.tracer: Tracer = NO_TRACER if self.provider is None else OtelTracer(self.provider.get_tracer("rankrag"))

    async def aclose(self) -> None:
        """Send what waits, if there is a collector that takes it."""
        if self.provider is not None:
            await asyncio.to_thread(self.provider.shutdown)


def open_traces(endpoint: str | None, *, sample_ratio: float, count: Callable[[str, int], None]) -> Traces:
    """`count` is told how many spans were `exported` or `lost`. Without an endpoint nothing is recorded."""
    if endpoint is None:
        return Traces(None)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
    return Traces(CountedExporter(exporter, count), sample_ratio=sample_ratio)


def _provider(exporter: SpanExporter, sample_ratio: float) -> TracerProvider:
    provider = TracerProvider(
        sampler=ParentBased(root=WhereLinked(TraceIdRatioBased(sample_ratio))),
        resource=_resource(),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(WithoutUrl())
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED_SPANS))
    return provider


def _resource() -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    ours = Resource({"service.name": "rankrag", "service.version": __version__})
    told = Resource.create().attributes
    return ours.merge(
        Resource({key: value for key, value in told.items() if not str(value).startswith("unknown_service")})
    )


class WithoutUrl(SpanProcessor):
    """Takes out what a caller wrote into the URL: the route says all that is to be known of it."""

    def on_start(self, span: WritableSpan, parent_context: Context | None = None) -> None:  # noqa: ARG002
        given = span.attributes or {}
        span.set_attributes({name: "" for name in ("url.path", "url.query") if name in given})


class WhereLinked(Sampler):
    """Work for several requests is recorded whenever one of them is; what else begins a trace by `otherwise`."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, kind: Any = None, attributes: Any = None,
        links: Sequence[Link] | None = None, trace_state: Any = None,
    ) -> SamplingResult:  # fmt: skip
        sampler = ALWAYS_ON if links else self._otherwise
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"WhereLinked({self._otherwise.get_description()})"


class CountedExporter(SpanExporter):
    """Around another exporter: what is lost is counted, and said once until something gets through again.

    After a failure nothing is tried for a while: a collector that is down costs no more than that.
    """

    def __init__(
        self, exporter: SpanExporter, count: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exporter = exporter
        self._count = count
        self._clock = clock
        self._retry_at_s: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        is_resting = self._retry_at_s is not None and self._clock() < self._retry_at_s
        result = SpanExportResult.FAILURE if is_resting else self._exporter.export(spans)
        self._count("exported" if result is SpanExportResult.SUCCESS else "lost", len(spans))
        if not is_resting:
            self._note(is_lost=result is not SpanExportResult.SUCCESS)
        return result

    def _note(self, *, is_lost: bool) -> None:
        was_lost, self._retry_at_s = self._retry_at_s is not None, self._clock() + REST_S if is_lost else None
        if is_lost and not was_lost:
            log.warning("spans_lost", reason="the collector can't be reached or refuses them")
        elif was_lost and not is_lost:
            log.info("spans_exported_again")

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class OtelSpan:
    """The Span port; attributes get the prefix `rankrag.`"""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **attributes: str | bool | float) -> None:
        self._span.set_attributes({f"rankrag.{name}": value for name, value in attributes.items()})

    def link(self, place: Place) -> None:
        self._span.add_link(cast(SpanContext, place))


class OtelTracer:
    """The Tracer port."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def stage(self, name: str, /) -> Iterator[Span]:
        with _within(self._tracer.start_span(name)) as span:
            yield span

    @contextmanager
    def batch(self, name: str, places: Iterable[Place], /) -> Iterator[Span]:
        links = [Link(cast(SpanContext, place)) for place in places]
        begun = self._tracer.start_span(name, Context(), trace.SpanKind.CLIENT, links=links) if links else INVALID_SPAN
        with _within(begun) as span:
            yield span

    def place(self) -> Place | None:
        here = trace.get_current_span().get_span_context()
        return Place(here) if here.trace_flags.sampled else None

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier


@contextmanager
def _within(span: trace.Span) -> Iterator[Span]:
    """`span` is the current one meanwhile. A failure is marked by its kind alone: its message may quote a text.

    What was current before is put back by value, not by token: a generator may be closed in another context than it
    was begun in.
    """
    before = context.get_current()
    context.attach(trace.set_span_in_context(span, before))
    try:
        yield OtelSpan(span)
    except (asyncio.CancelledError, GeneratorExit) as exc:
        span.set_attribute("error.type", type(exc).__name__)
        raise
    except Exception as exc:
        span.set_attribute("error.type", type(exc).__name__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        context.attach(before)
        span.end()
