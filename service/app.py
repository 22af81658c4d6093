"""The composition root: everything is built here, in order, and closed in reverse."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from service import __version__
from service.adapters.answer_cache import CachedAnswers
from service.adapters.calibration_file import read_calibration
from service.adapters.counted_cache import CountedCache
from service.adapters.dispatcher import Dispatcher
from service.adapters.document_cutter import TokenCutter
from service.adapters.engine import supervise
from service.adapters.generator import VllmGenerator
from service.adapters.index_directory import Manifest, OpenIndex, open_index
from service.adapters.judged_files import read_judged
from service.adapters.key_file import KeyFile
from service.adapters.memory_cache import MemoryCache
from service.adapters.prompt_files import PromptFile, read_golden, read_prompts
from service.adapters.query_encoder import QueryEncoder
from service.adapters.ranking_gate import KIND as VERDICT
from service.adapters.ranking_gate import TTL_S as VERDICT_TTL_S
from service.adapters.ranking_gate import GatedScorer, Probe, RankingGate, check_probe
from service.adapters.rate_limiter import SharedRates, counted_here, counted_in
from service.adapters.redis_cache import RedisCache, open_redis
from service.adapters.replicas import Replicas
from service.adapters.scorer import Gate, VllmScorer
from service.adapters.tiered_cache import open_tiers
from service.adapters.tokenizer import PromptTokenizer, checkpoint_directory, checkpoint_revision, open_tokenizer
from service.adapters.tracing import open_traces
from service.adapters.vllm_client import VllmClient, open_http
from service.api import chat, health, models, rerank, routes
from service.api.access import Access, Authenticate, Throttle
from service.api.ending import FinishInFlight, Life
from service.api.errors import add_error_handlers
from service.api.middleware import QUIET, BodyLimit, HeaderLimit, Observe
from service.api.playground import add_playground
from service.api.response_headers import SecurityHeaders
from service.api.services import Dependency, Services
from service.core.admission import Admission, DrainRate, TokenEstimate
from service.core.cache_keys import CacheKeys, digest
from service.core.early_exit import exit_rule
from service.core.gate import GateStatus
from service.core.schedule import Limits, Scheduler
from service.errors import ConfigError
from service.metrics import Metrics
from service.pipeline import Pipeline, Retriever
from service.ports import NO_TRACER, Cache, Scorer, Tracer
from service.settings import Settings

OpenPipeline = Callable[[Settings, Metrics, Tracer], AbstractAsyncContextManager[Services]]

MAX_REQUEST_ID_CHARS = 128

NO_KEYS = (
    "there are no API keys: set RANKRAG_AUTH__KEY_FILE to a file made by `rankrag keys new`, or RANKRAG_AUTH__MODE=off "
    "to let anybody ask who can reach the port"
)


def ignore_death(cause: BaseException) -> None:
    """For apps that run inside another process, which must not be stopped with them."""


def create_app(
    settings: Settings, open_services: OpenPipeline | None = None, life: Life | None = None,
    on_death: Callable[[BaseException], None] = ignore_death,
) -> FastAPI:  # fmt: skip
    """The ASGI app. `open_services` is `open_pipeline` unless a test brings its own.

    `life` is what a server that can be told to end tells it by; `on_death` hears of it if the watch over the keys ends.
    """
    metrics = Metrics(CollectorRegistry())
    traces = open_traces(
        settings.tracing.url, sample_ratio=settings.tracing.sample_ratio, count=metrics.count_spans
    )  # fmt: skip
    opener = open_services or open_pipeline

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with (
            aclosing(traces),
            open_access(settings, metrics, on_death) as access,
            opener(settings, metrics, traces.tracer) as services,
        ):
            app.state.access, app.state.services = access, services
            yield

    app = FastAPI(
        title="rankrag", version=__version__, lifespan=lifespan, telemetry=_telemetry(traces.provider),
        description="Retrieval-augmented answers and reranking by one RankRAG checkpoint.",
    )  # fmt: skip
    app.state.life, app.state.tells_details = life or Life(), settings.auth.mode == "off"
    app.include_router(routes.router)
    app.include_router(chat.router)
    app.include_router(rerank.router)
    app.include_router(models.router)
    app.include_router(health.router)
    if not settings.admin.port:
        app.include_router(health.metrics_router)
    if settings.playground:
        add_playground(app)
    add_error_handlers(app, metrics)
    _add_middleware(app, settings, metrics)
    return app


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """From the inside out: the last one sees a request first."""
    limits = settings.limits
    app.add_middleware(
        BodyLimit, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s, metrics=metrics
    )  # fmt: skip
    app.add_middleware(Throttle, metrics=metrics)
    app.add_middleware(Authenticate, metrics=metrics)
    app.add_middleware(
        HeaderLimit, max_bytes=limits.max_header_bytes, max_headers=limits.max_headers, metrics=metrics
    )  # fmt: skip
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors(settings.cors_origins))
    app.add_middleware(FinishInFlight, metrics=metrics)
    app.add_middleware(Observe, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CorrelationIdMiddleware, validator=is_request_id)


def cors(origins: str) -> dict[str, Any]:
    """What pages of these origins may send and read. No cookies: a key is all that a request is known by."""
    return {
        "allow_origins": origins.split(","),
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["Authorization", "X-API-Key", "api-key", "Content-Type", "Cache-Control", "X-Deadline-Ms"],
        "expose_headers": ["X-Request-ID", "Server-Timing", "Retry-After", "RateLimit", "RateLimit-Policy"],
    }


def create_admin_app(services: Services, life: Life) -> FastAPI:
    """What the platform asks, on a port of its own: it lives as long as `services`."""
    app = FastAPI(title="rankrag admin", openapi_url=None)
    app.state.services, app.state.life, app.state.tells_details = services, life, True
    app.include_router(health.router)
    app.include_router(health.metrics_router)
    add_error_handlers(app, services.metrics)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(CorrelationIdMiddleware, validator=is_request_id)
    return app


def _telemetry(provider: TracerProvider | None) -> TelemetryConfig:
    """FastAPI makes the span of a request and takes up its `traceparent`; nothing else, and nothing by itself."""
    return TelemetryConfig(
        tracer_provider=provider, tracing=provider is not None, metrics=False, logs=False, operation_spans=False,
        auto_configure=False, exclude=lambda scope: scope["path"] in QUIET,
    )  # fmt: skip


@asynccontextmanager
async def open_access(
    settings: Settings, metrics: Metrics, on_death: Callable[[BaseException], None]
) -> AsyncIterator[Access]:
    """Raises ConfigError where keys are needed and there are none."""
    async with AsyncExitStack() as stack:
        key_file = _open_keys(settings, metrics)
        if key_file:
            _keep_running(stack, key_file.run, on_death)
        rate_limiter = await _open_rate_limiter(settings, metrics, stack)
        yield Access(key_file.keyring if key_file else None, rate_limiter, settings.rate_limit.requests)


def _open_keys(settings: Settings, metrics: Metrics) -> KeyFile | None:
    auth = settings.auth
    if auth.mode == "off":
        return None
    if auth.key_file is None:
        raise ConfigError(NO_KEYS, field="auth.key_file")
    return KeyFile(auth.key_file, interval_s=auth.reload_interval_s, count_reload=metrics.observe_key_reload)


async def _open_rate_limiter(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> SharedRates:
    shared, timeout_s = None, settings.rate_limit.timeout_s
    if settings.redis_url is not None:
        url = str(settings.redis_url)
        shared = counted_in(await stack.enter_async_context(open_redis(url, timeout_s=timeout_s)), url)
    return SharedRates(
        shared, counted_here(), timeout_s=timeout_s, retry_after_s=settings.cache.retry_after_s,
        count_failure=metrics.rate_limit_failures.inc,
    )  # fmt: skip


def is_request_id(text: str) -> bool:
    """Whether a caller's X-Request-ID is taken over: short, and nothing that could break a log line."""
    return 0 < len(text) <= MAX_REQUEST_ID_CHARS and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


@dataclass(slots=True)
class Death:
    """Why the background loop died, for the exit code."""

    causes: list[BaseException] = field(default_factory=list)

    def stop_process(self, cause: BaseException) -> None:
        """A server whose engine watch is dead would answer from old knowledge for ever: end it."""
        self.causes.append(cause)
        signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def open_pipeline(
    settings: Settings,
    metrics: Metrics,
    tracer: Tracer = NO_TRACER,
    on_death: Callable[[BaseException], None] = ignore_death,
) -> AsyncIterator[Services]:
    """Open every adapter; `on_death` hears of it if the watch over the engine ever ends.

    If vLLM is up already, its checkpoint is verified before the first request; if it comes later, then.

    Raises:
        ConfigError, CheckpointError: nothing is started; the message says what to change.
    """
    prompt_file = read_prompts(settings.prompts)
    directory = checkpoint_directory(settings.checkpoint, settings.checkpoint_revision)
    tokenizer = PromptTokenizer(open_tokenizer(directory), prompt_file.prompts)
    opened = _open_index(settings, tokenizer)
    keys = _cache_keys(settings, prompt_file, checkpoint_revision(directory), opened)
    probe = _read_probe(settings, keys, has_index=opened is not None)
    metrics.tasks.set_function(partial(_num_tasks, asyncio.get_running_loop()))
    async with AsyncExitStack() as stack:
        if opened:
            _keep_running(stack, opened.files.watch, on_death)
        cache = CountedCache(await _open_cache(settings, metrics, stack), metrics.cache)
        replicas = Replicas(
            settings.vllm, tokenizer, read_golden(),
            calibration=read_calibration(directory), observe=metrics.observe_replicas,
            open_client=lambda vllm, url: VllmClient(open_http(vllm, url), tracer),
        )  # fmt: skip
        stack.push_async_callback(replicas.aclose)
        await replicas.check()
        _keep_running(stack, replicas.run, on_death)
        engine = _open_engine(settings, metrics, replicas, tracer)
        _keep_running(stack, engine.dispatcher.run, on_death)
        rule = exit_rule(settings.early_exit)
        scorer: Scorer = VllmScorer(engine.dispatcher, replicas, tokenizer, cache, keys, engine.gate, rule)
        retriever = _retriever(opened, cache, keys) if opened else None
        gate = _open_gate(settings, metrics, probe, scorer, retriever, cache) if probe else None
        if gate:
            _keep_running(stack, gate.run, on_death)
            scorer = GatedScorer(scorer, gate)
        generator = VllmGenerator(replicas, load=engine.scheduler.load)
        yield Services(
            settings=settings,
            metrics=metrics,
            prompts=prompt_file.prompts,
            scorer=scorer,
            cutter=TokenCutter(tokenizer, replicas.max_model_len),
            pipeline=_pipeline(retriever, generator, scorer, cache, keys, prompt_file, tracer),
            model=settings.checkpoint,
            index_version=opened.manifest.version if opened else "",
            dependencies=lambda: _dependencies(settings, replicas, opened, cache, gate),
            clock=time.monotonic,
            tracer=tracer,
        )


def _retriever(opened: OpenIndex, cache: Cache, keys: CacheKeys) -> Retriever:
    return Retriever(QueryEncoder(opened.encoder, cache, keys, time.monotonic), opened.index)


@dataclass(frozen=True, slots=True)
class ScoringEngine:
    """What computes scores for all requests, and who may ask it to."""

    scheduler: Scheduler
    dispatcher: Dispatcher
    gate: Gate


def _open_engine(settings: Settings, metrics: Metrics, replicas: Replicas, tracer: Tracer) -> ScoringEngine:
    vllm = settings.vllm
    limits = Limits(vllm.max_prompts_per_call, vllm.max_tokens_per_call, vllm.window_tokens, vllm.max_connections)
    scheduler, drain = Scheduler(limits), DrainRate()
    dispatcher = Dispatcher(
        scheduler, replicas, drain,
        passes_priority=vllm.priority_scheduling, observe_call=metrics.batch_pairs.observe,
        observe_joined=metrics.pairs_joined.inc, tracer=tracer,
    )  # fmt: skip
    metrics.watch_waits(dispatcher.waits_s)
    metrics.watch_scoring(
        queued_pairs=lambda: scheduler.num_waiting_pairs,
        queued_tokens=lambda: scheduler.waiting_tokens,
        outstanding_tokens=lambda: scheduler.outstanding_tokens,
        scoring_requests=lambda: dispatcher.num_requests,
        scoring_calls=lambda: dispatcher.num_calls,
    )
    admission = Admission(max_queued=vllm.max_queued_tokens)
    return ScoringEngine(scheduler, dispatcher, Gate(scheduler, drain, admission, TokenEstimate(), time.monotonic))


def _keep_running(stack: AsyncExitStack, loop: Callable[[], object], on_death: Callable[[BaseException], None]) -> None:
    """Run `loop` beside everything else until the stack closes; its death is told to `on_death`."""
    stack.push_async_callback(_cancel, asyncio.create_task(supervise(loop, on_death)))


def _open_index(settings: Settings, tokenizer: PromptTokenizer) -> OpenIndex | None:
    index = settings.index
    if index.path is None:
        return None
    return open_index(
        index.path, device=index.device, encoder_device=index.encoder_device, fingerprint=tokenizer.fingerprint,
        verify=index.verify,
    )  # fmt: skip


def _read_probe(settings: Settings, keys: CacheKeys, *, has_index: bool) -> Probe | None:
    path = settings.gate.probe
    if path is None:
        return None
    questions = check_probe(read_judged(path), has_index=has_index)
    return Probe(questions, settings.top_n, keys.verdict(_probe_digest(settings)))


def _open_gate(
    settings: Settings, metrics: Metrics, probe: Probe, scorer: Scorer, retriever: Retriever | None, cache: Cache
) -> RankingGate:
    is_overridden = settings.gate.override
    return RankingGate(
        probe, scorer, retriever, cache, is_overridden=is_overridden, observe=metrics.observe_gate
    )  # fmt: skip


def _probe_digest(settings: Settings) -> str:
    """Of the probe's content and of how much is retrieved for its questions; the same for all when there is none.

    Raises:
        ConfigError: it can't be read.
    """
    path = settings.gate.probe
    try:
        return "" if path is None else digest(hashlib.sha256(path.read_bytes()).hexdigest(), settings.top_n)
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}", field="gate.probe") from exc


def _cache_keys(settings: Settings, prompt_file: PromptFile, revision: str, opened: OpenIndex | None) -> CacheKeys:
    return CacheKeys(
        checkpoint=revision,
        prompts=f"{prompt_file.prompts.id}:{prompt_file.digest}",
        index=opened.manifest.version if opened else "",
        encoder=_encoder_key(opened.manifest) if opened else "",
        gate=digest(_probe_digest(settings), settings.gate.override) if settings.gate.probe else "",
    )


def _encoder_key(manifest: Manifest) -> str:
    """The model's files and how they are used: pooling, prompt and normalisation change a vector too."""
    return digest(manifest.query_encoder_revision, manifest.encoder.model_dump_json())


async def _open_cache(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Cache:
    ttls_s = {
        "answer": settings.cache.answer_ttl_s,
        "score": settings.cache.score_ttl_s,
        "embedding": settings.cache.embedding_ttl_s,
        VERDICT: VERDICT_TTL_S,
    }
    memory = MemoryCache(ttls_s, max_entries=settings.cache.max_entries)
    if settings.redis_url is None:
        return memory
    client = await stack.enter_async_context(open_redis(str(settings.redis_url), timeout_s=settings.cache.timeout_s))
    redis = RedisCache(
        client, ttls_s, retry_after_s=settings.cache.retry_after_s, count_failure=metrics.cache_failures.inc
    )
    tiers = open_tiers(
        memory, redis, patience_s=settings.cache.patience_s,
        count_slow=metrics.cache_slow.inc, count_dropped=metrics.cache_dropped.inc,
    )  # fmt: skip
    return await stack.enter_async_context(tiers)


def _pipeline(
    retriever: Retriever | None, generator: VllmGenerator, scorer: Scorer, cache: Cache, keys: CacheKeys,
    prompt_file: PromptFile, tracer: Tracer,
) -> Pipeline:  # fmt: skip
    return Pipeline(
        retriever=retriever,
        scorer=scorer,
        generator=generator,
        answers=CachedAnswers(cache, keys),
        prompts=prompt_file.prompts,
        clock=time.monotonic,
        tracer=tracer,
    )


def _dependencies(
    settings: Settings, replicas: Replicas, opened: OpenIndex | None, cache: Cache, gate: RankingGate | None
) -> Mapping[str, Dependency]:
    found = {"engine": Dependency(bool(replicas.ready()), replicas.summary())}
    if opened:
        manifest = opened.manifest
        detail = f"{manifest.num_passages} passages, version {manifest.version}, on {opened.index.device}"
        changed = ", ".join(opened.files.changed())
        found["index"] = Dependency(not changed, f"written to while in use: {changed}" if changed else detail)
        found["encoder"] = Dependency(True, f"{manifest.encoder.model} at {manifest.query_encoder_revision}")
    else:
        found["index"] = Dependency(False, "none configured: /answer needs `passages`", required=False)
    if gate is not None:
        found["gate"] = gate_dependency(gate.status)
    where = "redis" if settings.redis_url else "in this process"
    found["cache"] = Dependency(cache.is_up(), where if cache.is_up() else f"{where}: not reachable", required=False)
    return found


def gate_dependency(status: GateStatus) -> Dependency:
    """Unready until there is a verdict: who rolls out a checkpoint keeps the old pods until the new ones are proven.

    A checkpoint that failed is served, without reranking.
    """
    is_awaited = status.state == "unproven" and not status.is_overridden
    return Dependency(status.state == "passed", status.text, required=is_awaited)


def _num_tasks(loop: asyncio.AbstractEventLoop) -> int:
    """For any thread: metrics may be read in another one."""
    return len(asyncio.all_tasks(loop))


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
