"""Log lines: what is in them, and what never is."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import structlog
from asgi_correlation_id import correlation_id
from opentelemetry import context, trace

from service.app import create_app
from service.errors import EngineError
from service.logs import configure_logs
from service.settings import LogSettings, Settings
from service.types import Passage
from tests.fakes import FakeServices, client_of

QUESTION = "Is ZANZIBARINE true?"
DOCUMENT = "XYLOPHONIC passage"
RERANK = {"query": QUESTION, "documents": [DOCUMENT]}
ANSWER = {"question": QUESTION, "top_n": 3, "top_k": 2}

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level, own = list(root.handlers), root.level, logging.getLogger("service").level
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("service").setLevel(own)


def settings(**log: Any) -> Settings:
    return Settings(log=LogSettings(**log))


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last time, as JSON."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def log_of(fakes: FakeServices, lines: Lines, path: str, body: object, **log: Any) -> dict[str, Any]:
    """The access line of one request."""
    options = settings(**{"format": "json", **log})
    configure_logs(options)
    async with client_of(create_app(options, fakes.open)) as client:
        await client.post(path, json=body, headers={"X-Request-ID": "my-id"})
    (line,) = [line for line in lines() if line["event"] == "request"]
    return line


# One line


def test_every_line_is_json_whoever_writes_it(lines: Lines) -> None:
    configure_logs(settings(format="json"))
    structlog.get_logger("service.somewhere").info("ours", seconds=0.5)
    logging.getLogger("uvicorn.error").warning("theirs: %s\nin two lines", "x")
    ours, theirs = lines()
    assert (ours["event"], ours["level"], ours["seconds"]) == ("ours", "info", 0.5)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "theirs: x\nin two lines", "warning", "uvicorn.error",
    )  # fmt: skip
    assert all("timestamp" in line for line in (ours, theirs))


def test_errors_of_libraries_come_with_their_traceback_in_one_line(lines: Lines) -> None:
    configure_logs(settings(format="json"))
    try:
        raise RuntimeError("bug")
    except RuntimeError:
        logging.getLogger("asyncio").exception("failed")
        structlog.get_logger("service.somewhere").exception("failed")
    assert all("RuntimeError: bug" in line["exception"] for line in lines())


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_least_level_is_that_of_the_settings(level: str, expected: int, lines: Lines) -> None:
    configure_logs(Settings.model_validate({"log_level": level, "log": {"format": "json"}}))
    own = structlog.get_logger("service.somewhere")
    for name in ("debug", "info", "warning", "error"):
        getattr(own, name)("event")
    assert len(lines()) == expected


def test_libraries_are_heard_from_warning_on(lines: Lines) -> None:
    configure_logs(Settings.model_validate({"log_level": "debug", "log": {"format": "json"}}))
    logging.getLogger("httpx").info("HTTP Request: POST http://vllm/v1/completions")
    assert lines() == []


def test_line_has_the_ids_of_its_request_and_its_trace(lines: Lines) -> None:
    configure_logs(settings(format="json"))
    place = trace.SpanContext(0xABC, 0xDEF, is_remote=True)
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(place)))
    correlation_id.set("my-id")
    try:
        structlog.get_logger("service.somewhere").info("event")
    finally:
        context.detach(token)
        correlation_id.set(None)
    (line,) = lines()
    assert line["request_id"] == "my-id"
    assert (line["trace_id"], line["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


def test_line_outside_of_any_request_has_none(lines: Lines) -> None:
    configure_logs(settings(format="json"))
    structlog.get_logger("service.somewhere").info("event")
    assert lines()[0].keys() == {"event", "level", "timestamp"}


def test_text_is_for_people_and_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(settings(format="text"))
    secret = "ZANZIBARINE".lower()  # pragma: allowlist secret
    try:
        raise RuntimeError("bug")
    except RuntimeError:
        structlog.get_logger("service.somewhere").exception("failed", seconds=0.5)
    shown = capsys.readouterr().err
    assert "seconds=0.5" in shown
    assert "RuntimeError: bug" in shown
    assert secret not in shown
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown.splitlines()[0])


@pytest.mark.parametrize("is_terminal", [True, False])
def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    configure_logs(settings())
    structlog.get_logger("service.somewhere").info("event")
    assert capsys.readouterr().err.startswith("{") is not is_terminal


# A request


async def test_answer_has_one_line_with_its_stages_and_its_work(lines: Lines) -> None:
    fakes = FakeServices()
    fakes.scorer.meanwhile = lambda: fakes.clock.advance(0.25)
    line = await log_of(fakes, lines, "/answer", ANSWER)
    assert (line["request_id"], line["method"], line["route"], line["status"]) == ("my-id", "POST", "/answer", 200)
    assert line["timings_ms"].keys() == {"encode", "search", "score", "generate", "ttft", "total"}
    assert line["timings_ms"]["score"] == 250
    assert (line["pairs_scored"], line["pairs_cached"], line["completion_tokens"]) == (3, 0, 2)
    assert (line["degraded"], line["cached"], line["abstained"]) == ([], False, False)
    assert line["seconds"] >= 0


async def test_streamed_answer_has_the_same_line(lines: Lines) -> None:
    line = await log_of(FakeServices(), lines, "/answer", {**ANSWER, "stream": True})
    assert line["timings_ms"].keys() == {"encode", "search", "score", "generate", "ttft", "total"}
    assert (line["request_id"], line["pairs_scored"]) == ("my-id", 3)


async def test_reranking_has_one_line(lines: Lines) -> None:
    line = await log_of(FakeServices(), lines, "/rerank", RERANK)
    assert line["timings_ms"].keys() == {"score", "total"}
    assert line["pairs_scored"] == 1


async def test_degradation_shows_in_the_line(lines: Lines) -> None:
    fakes = FakeServices()
    fakes.scorer.error = EngineError("gone")
    assert (await log_of(fakes, lines, "/answer", ANSWER))["degraded"] == ["rerank_skipped"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/rerank", {}, 422, "invalid_request"),
        ("/nothing", {}, 404, "not_found"),
        ("/rerank", {"query": "x" * 9_000_000, "documents": ["d"]}, 413, "request_too_large"),
    ],
)
async def test_refusal_shows_its_code(path: str, body: object, status: int, code: str, lines: Lines) -> None:
    line = await log_of(FakeServices(), lines, path, body)
    assert (line["status"], line["error"]) == (status, code)


async def test_error_in_a_stream_shows_in_the_line(lines: Lines) -> None:
    fakes = FakeServices()
    fakes.generator.error = EngineError("gone")
    line = await log_of(fakes, lines, "/answer", {**ANSWER, "stream": True})
    assert (line["status"], line["error"]) == (200, "engine_unavailable")


async def test_probes_have_no_line(lines: Lines) -> None:
    configure_logs(settings(format="json"))
    async with client_of(create_app(Settings(), FakeServices().open)) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            await client.get(path)
    assert lines() == []


# Texts


async def ask_everything(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    """Every kind of request, right and wrong, each with texts that are easy to find."""
    given = {**ANSWER, "passages": [{"id": "VERMILION", "text": "OCHRE", "title": "TEAL"}]}
    bodies: list[tuple[str, object]] = [
        ("/answer", ANSWER), ("/answer", {**ANSWER, "stream": True}), ("/answer", given), ("/rerank", RERANK),
        ("/answer", {**given, "passages": [given["passages"][0], given["passages"][0]]}),  # type: ignore[index]
        ("/answer", {**ANSWER, "filters": {"MAROON": ["CRIMSON"]}}), ("/rerank", {**RERANK, "MAROON": 1}),
        ("/rerank", {**RERANK, "priority": "CRIMSON"}), (f"/{QUESTION}", {}),
    ]  # fmt: skip
    for error in (None, EngineError("gone"), RuntimeError("bug")):
        fakes.scorer.error = error
        for path, body in bodies:
            await client.post(path, json=body, headers={"User-Agent": "CRIMSON"})


TEXTS = ("ZANZIBARINE", "XYLOPHONIC", "VERMILION", "OCHRE", "TEAL", "MAROON", "CRIMSON", "Mont Blanc rises")


async def test_no_text_of_the_caller_or_the_index_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    fakes = FakeServices()
    for form in ("json", "text"):
        configure_logs(Settings.model_validate({"log_level": "debug", "log": {"format": form}}))
        async with client_of(create_app(Settings(), fakes.open)) as client:
            await ask_everything(client, fakes)
        logged = capsys.readouterr()
        assert logged.err.count("unexpected_error") >= 2
        for text in TEXTS:
            assert text not in logged.err + logged.out


async def test_texts_are_logged_where_that_is_wanted(lines: Lines) -> None:
    line = await log_of(FakeServices(), lines, "/answer", ANSWER, text=True)
    assert (line["question"], line["answer"]) == (QUESTION, "4,806 metres")
    assert [Passage(**passage).title for passage in line["passages"]] == ["Rhine", "Mont Blanc"]
    line = await log_of(FakeServices(), lines, "/rerank", RERANK, text=True)
    assert (line["question"], line["passages"]) == (QUESTION, [{"id": "0", "title": "", "text": DOCUMENT}])
