"""What a collector gets to see: real OTLP exports, decoded, of an app over a fake vLLM."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from service.adapters.generator import VllmGenerator
from service.adapters.tracing import REST_S, CountedExporter, open_traces
from service.api.services import Services
from service.app import create_app
from service.errors import DeadlineError, RetrievalError
from service.metrics import Metrics
from service.pipeline import Pipeline, Retriever
from service.ports import NO_TRACER, Tracer
from service.settings import Settings, TracingSettings
from tests.fake_vllm import FakeVllm, until
from tests.fakes import Clock, FakeServices, client_of, rankrag_prompts
from tests.otlp import Collector, attributes, listening, resource_attributes
from tests.scoring_stack import scoring_stack

QUESTION = "How high is the ZANZIBARINE mountain?"
ANSWER = {"question": QUESTION, "top_n": 3, "top_k": 2}
RERANK = {"query": QUESTION, "documents": ["The Rhine is a river.", "XYLOPHONIC text about Mont Blanc."]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # pragma: allowlist secret


@pytest.fixture
def collector() -> Iterator[Collector]:
    with listening() as collector:
        yield collector


@dataclass
class Traced:
    """An app whose scorer and generator ask a fake vLLM, and whose retriever is a fake."""

    vllm: FakeVllm = field(default_factory=FakeVllm)
    fakes: FakeServices = field(default_factory=FakeServices)
    limits: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def open(self, settings: Settings, metrics: Metrics, tracer: Tracer) -> AsyncIterator[Services]:
        async with (
            self.fakes.open(settings, metrics, tracer) as services,
            scoring_stack(self.vllm, tracer=tracer, **self.limits) as stack,
        ):
            pipeline = Pipeline(
                retriever=Retriever(self.fakes.encoder, self.fakes.index), scorer=stack.scorer,
                generator=VllmGenerator(stack.replicas, load=stack.scheduler.load),
                answers=self.fakes.answers, prompts=rankrag_prompts(), clock=time.monotonic, tracer=tracer,
            )  # fmt: skip
            yield replace(services, scorer=stack.scorer, pipeline=pipeline, clock=time.monotonic)

    @asynccontextmanager
    async def client(self, endpoint: str | None, sample_ratio: float = 1.0) -> AsyncIterator[httpx.AsyncClient]:
        """Its spans are with the collector when it is closed."""
        settings = Settings(tracing=TracingSettings(endpoint=endpoint, sample_ratio=sample_ratio))
        async with client_of(create_app(settings, self.open)) as client:
            yield client


@pytest.fixture
def traced() -> Traced:
    return Traced()


def traceparent(*, is_sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{'01' if is_sampled else '00'}"}


# One request


async def test_each_stage_is_a_span_of_the_callers_trace(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        response = await client.post("/answer", json=ANSWER, headers=traceparent())
    assert response.status_code == 200, response.text
    server = collector.named("POST /answer")
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
    assert server.kind == Span.SPAN_KIND_SERVER
    for name in ("encode", "search", "score", "keep", "generate"):
        stage = collector.named(name)
        assert (stage.trace_id, stage.parent_span_id) == (server.trace_id, server.span_id), name
        assert server.start_time_unix_nano <= stage.start_time_unix_nano <= stage.end_time_unix_nano, name
        assert stage.status.code == Status.STATUS_CODE_UNSET, name
    assert len(collector.spans) == 7  # those, and the batch


async def test_spans_say_how_much_was_done(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER)
    server = attributes(collector.named("POST /answer"))
    assert (server["http.route"], server["http.response.status_code"]) == ("/answer", 200)
    assert attributes(collector.named("search")) == {"rankrag.top_n": 3, "rankrag.num_found": 3}
    score = attributes(collector.named("score"))
    assert score["rankrag.num_passages"] == score["rankrag.pairs_scored"] == 3
    assert (score["rankrag.pairs_cached"], score["rankrag.is_partial"]) == (0, False)
    assert attributes(collector.named("keep"))["rankrag.num_kept"] == 2
    assert attributes(collector.named("generate"))["rankrag.completion_tokens"] == 2
    batch = attributes(collector.named("score_batch"))
    assert (batch["rankrag.num_pairs"], batch["rankrag.replica"]) == (3, "http://vllm-0")
    assert batch["rankrag.num_tokens"] == score["rankrag.prompt_tokens"]


async def test_stages_of_a_stream_belong_to_its_request(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        response = await client.post("/answer", json={**ANSWER, "stream": True})
    assert "event: final" in response.text
    server = collector.named("POST /answer")
    parents = {name: collector.named(name).parent_span_id for name in ("encode", "search", "score", "keep", "generate")}
    assert set(parents.values()) == {server.span_id}


async def test_reranking_has_its_stages_too(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/rerank", json=RERANK)
    server = collector.named("POST /rerank")
    assert collector.named("score").parent_span_id == collector.named("keep").parent_span_id == server.span_id


async def test_a_known_answer_has_no_stages(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER)
        await client.post("/answer", json=ANSWER)
    assert len(collector.all_named("POST /answer")) == 2
    assert len(collector.all_named("score")) == 1


async def test_no_text_of_the_caller_is_in_any_span(collector: Collector, traced: Traced) -> None:
    given = {**ANSWER, "question": "VERMILION?", "passages": [{"id": "q1", "text": "OCHRE", "title": "TEAL"}]}
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER)
        await client.post("/rerank", json=RERANK)
        await client.post("/answer", json=given)
        await client.post("/answer", json={**given, "passages": [{"text": ["MAROON"]}]})
        await client.post("/rerank?query=MAGENTA", json=RERANK)
        await client.get("/INDIGO")
        traced.fakes.index.error = RetrievalError("the index failed at CRIMSON")
        await client.post("/answer", json={**ANSWER, "question": "CRIMSON"})
    assert len(collector.spans) > 10
    seen = b"".join(collector.bodies)
    for text in (
        b"ZANZIBARINE",
        b"XYLOPHONIC",
        b"VERMILION",
        b"OCHRE",
        b"TEAL",
        b"MAROON",
        b"CRIMSON",
        b"MAGENTA",
        b"INDIGO",
        b"4,806",
    ):
        assert text not in seen


async def test_failed_stage_is_marked_by_the_kind_of_its_error(collector: Collector, traced: Traced) -> None:
    traced.fakes.index.error = RetrievalError("secret")
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER)
    search, server = collector.named("search"), collector.named("POST /answer")
    assert search.status.code == server.status.code == Status.STATUS_CODE_ERROR
    assert (attributes(search)["error.type"], search.status.message, list(search.events)) == ("RetrievalError", "", [])
    assert attributes(server)["http.response.status_code"] == 500


async def test_probes_have_no_spans(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            await client.get(path, headers=traceparent())
        await client.get("/nothing")
    assert [span.name for span in collector.spans] == ["GET"]


async def test_service_is_called_by_its_name(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/rerank", json=RERANK)
    assert resource_attributes(collector)["service.name"] == "rankrag"


async def test_service_may_be_given_another_name(
    collector: Collector, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    async with traced.client(collector.url) as client:
        await client.post("/rerank", json=RERANK)
    named = resource_attributes(collector)
    assert (named["service.name"], named["deployment.environment"]) == ("answers", "test")


# Batches


def linked(batch: Span) -> set[tuple[bytes, bytes]]:
    return {(link.trace_id, link.span_id) for link in batch.links}


def places(spans: Sequence[Span]) -> set[tuple[bytes, bytes]]:
    return {(span.trace_id, span.span_id) for span in spans}


async def test_batch_has_a_trace_of_its_own_with_a_link_to_the_stage_it_serves(
    collector: Collector, traced: Traced
) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/rerank", json=RERANK, headers=traceparent())
    batch, score = collector.named("score_batch"), collector.named("score")
    assert (batch.parent_span_id, batch.kind) == (b"", Span.SPAN_KIND_CLIENT)
    assert batch.trace_id != score.trace_id
    assert linked(batch) == places([score])


async def test_batches_are_linked_to_all_whose_pairs_they_carry_and_to_no_other(
    collector: Collector, traced: Traced
) -> None:
    traced.limits, traced.vllm.delay_s = {"max_connections": 1}, 0.05
    queries = [f"question {number}" for number in range(6)]
    async with traced.client(collector.url) as client:
        bodies = [{"query": query, "documents": [f"{query} a", f"{query} b"]} for query in queries]
        await asyncio.gather(*(client.post("/rerank", json=body) for body in bodies))
    batches, scores = collector.all_named("score_batch"), collector.all_named("score")
    assert len(scores) == 6
    assert len(batches) < 6
    assert set().union(*(linked(batch) for batch in batches)) == places(scores)
    for batch in batches:
        assert attributes(batch)["rankrag.num_pairs"] == 2 * len(batch.links)


async def test_batch_is_linked_to_who_joins_it_while_it_runs(collector: Collector, traced: Traced) -> None:
    traced.vllm.delay_s = 0.05
    async with traced.client(collector.url) as client:
        first = asyncio.create_task(client.post("/rerank", json=RERANK))
        await until(lambda: traced.vllm.num_under_way)
        await client.post("/rerank", json=RERANK)
        await first
    scores = collector.all_named("score")
    assert len(scores) == 2
    assert linked(collector.named("score_batch")) == places(scores)


async def test_failed_call_is_a_failed_batch(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        traced.vllm.instead = lambda _: httpx.Response(500, text="broken")
        assert (await client.post("/rerank", json=RERANK)).status_code == 503
    batch = collector.named("score_batch")
    assert (batch.status.code, attributes(batch)["error.type"]) == (Status.STATUS_CODE_ERROR, "EngineError")


async def test_vllm_goes_on_with_the_trace_of_who_calls_it(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER, headers={**traceparent(), "baggage": "who=me"})
    sent = [headers["traceparent"] for headers in traced.vllm.headers]
    expected = [collector.named(name) for name in ("score_batch", "generate")]
    assert [header[:-3] for header in sent] == [f"00-{span.trace_id.hex()}-{span.span_id.hex()}" for span in expected]
    assert all(int(header[-2:], 16) & 1 for header in sent)  # sampled
    assert all("baggage" not in headers for headers in traced.vllm.headers)


# How much is traced


async def test_nothing_is_traced_where_the_ratio_is_0(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url, sample_ratio=0) as client:
        await client.post("/answer", json=ANSWER)
    assert collector.spans == []
    assert all("traceparent" not in headers for headers in traced.vllm.headers[:1])  # the batch's


async def test_what_the_caller_traces_is_traced_with_its_batches(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url, sample_ratio=0) as client:
        await client.post("/answer", json=ANSWER, headers=traceparent())
        await client.post("/rerank", json=RERANK)
    assert {span.name for span in collector.spans} == {
        "POST /answer", "encode", "search", "score", "keep", "generate", "score_batch",
    }  # fmt: skip


async def test_what_the_caller_does_not_trace_is_not_traced(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        await client.post("/answer", json=ANSWER, headers=traceparent(is_sampled=False))
    assert collector.spans == []


@pytest.mark.parametrize("bad", ["", "00", f"00-{TRACE}-{PARENT}", f"00-{'0' * 32}-{PARENT}-01", "é", "x" * 5000])
async def test_bad_traceparent_begins_a_trace_of_its_own(bad: str, collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        response = await client.post("/rerank", json=RERANK, headers=[(b"traceparent", bad.encode("latin-1"))])
    assert response.status_code == 200
    server = collector.named("POST /rerank")
    assert server.parent_span_id == b""
    assert server.trace_id.hex() != TRACE


async def test_without_an_endpoint_nothing_is_made_and_nothing_passed_on(traced: Traced) -> None:
    num_threads = threading.active_count()
    async with traced.client(None) as client:
        assert (await client.post("/answer", json=ANSWER, headers=traceparent())).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert all("traceparent" not in headers for headers in traced.vllm.headers)
    assert "rankrag_spans_total{" not in metrics
    assert not any("Otel" in thread.name for thread in threading.enumerate())
    assert threading.active_count() <= num_threads + 4  # those of asyncio.to_thread
    assert open_traces(None, sample_ratio=1, count=lambda *_: None).tracer is NO_TRACER


def test_a_span_costs_next_to_nothing_where_none_is_made() -> None:
    begun_s = time.perf_counter()
    for _ in range(10_000):
        with NO_TRACER.stage("score") as span:
            span.set(num_passages=20)
    assert time.perf_counter() - begun_s < 0.5  # 50 µs each, on the slowest of machines


# A collector that is down


class Exporter(SpanExporter):
    """Gives `result`, and counts how often it is asked."""

    result = SpanExportResult.FAILURE
    num_calls = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.num_calls += bool(spans)
        return self.result


SPANS = [ReadableSpan("a"), ReadableSpan("b")]


def test_lost_spans_are_counted_and_said_once_until_some_get_through() -> None:
    exporter, clock, counted = Exporter(), Clock(), list[tuple[str, int]]()
    around = CountedExporter(exporter, lambda result, count: counted.append((result, count)), clock)
    with capture_logs() as lines:
        for _ in range(5):
            around.export(SPANS)
            clock.advance(REST_S)
        exporter.result = SpanExportResult.SUCCESS
        around.export(SPANS)
    assert [line["event"] for line in lines] == ["spans_lost", "spans_exported_again"]
    assert counted == [("lost", 2)] * 5 + [("exported", 2)]


def test_collector_that_failed_gets_a_rest() -> None:
    exporter, clock, counted = Exporter(), Clock(), list[tuple[str, int]]()
    around = CountedExporter(exporter, lambda result, count: counted.append((result, count)), clock)
    for _ in range(100):
        around.export(SPANS)
    assert exporter.num_calls == 1
    assert counted == [("lost", 2)] * 100
    clock.advance(REST_S)
    around.export(SPANS)
    assert exporter.num_calls == 2


@pytest.mark.parametrize("status", [None, 500, 404])
async def test_collector_that_is_down_costs_no_request_anything(
    status: int | None, traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    with listening() as collector:
        collector.status = status or 200
        url = collector.url if status else "http://127.0.0.1:9"
        begun_s = time.monotonic()
        with capture_logs() as lines:
            async with traced.client(url) as client:
                for number in range(5):
                    body = {**ANSWER, "question": f"question {number}"}
                    assert (await client.post("/answer", json=body)).status_code == 200
    assert time.monotonic() - begun_s < 10  # the last export included
    assert [line["event"] for line in lines if "span" in line["event"]] == ["spans_lost"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_spans_are_counted_by_what_became_of_them(collector: Collector, traced: Traced) -> None:
    app = create_app(Settings(tracing=TracingSettings(endpoint=collector.url)), traced.open)
    async with client_of(app) as client:
        await client.post("/rerank", json=RERANK)
        metrics = app.state.services.metrics
    assert metrics.registry.get_sample_value("rankrag_spans_total", {"result": "exported"}) == 4


async def test_generator_that_is_closed_elsewhere_leaves_the_callers_place_alone(collector: Collector) -> None:
    traces = open_traces(f"{collector.url}/v1/traces", sample_ratio=1, count=lambda *_: None)

    async def pieces() -> AsyncIterator[int]:
        with traces.tracer.stage("generate"):
            for number in range(10):
                yield number

    with traces.tracer.stage("outer"):
        outer = traces.tracer.place()
        begun = pieces()
        assert await asyncio.create_task(anext(begun)) == 0  # type: ignore[arg-type]
        assert traces.tracer.place() == outer
        await asyncio.create_task(begun.aclose())  # type: ignore[attr-defined]
        assert traces.tracer.place() == outer
    await traces.aclose()
    assert collector.named("generate").parent_span_id == collector.named("outer").span_id


async def test_time_that_is_over_shows_in_the_score_span(collector: Collector, traced: Traced) -> None:
    async with traced.client(collector.url) as client:
        traced.vllm.delay_s = 60
        response = await client.post("/rerank", json={**RERANK, "deadline_ms": 100})
    assert response.status_code == DeadlineError.status
    score, batch = collector.named("score"), collector.named("score_batch")
    assert attributes(score)["error.type"] in {"DeadlineError", "CancelledError"}
    assert attributes(batch)["error.type"] == "CancelledError"
