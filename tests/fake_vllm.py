"""A vLLM server in the process: a small tokenizer, and the three paths that the service calls."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from service.adapters.engine import Engine
from service.adapters.prompt_files import read_golden
from service.adapters.replicas import Replicas
from service.adapters.tokenizer import PromptTokenizer
from service.adapters.vllm_client import VllmClient
from service.core.scoring import UNCALIBRATED, Calibration
from service.ports import NO_TRACER, Tracer
from service.settings import VllmSettings
from tests.fakes import rankrag_prompts

SPECIAL_TOKENS = ["<|begin_of_text|>", "<|eot_id|>", "</s>"]
Logprobs = Callable[[str], tuple[float, float]]


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE with a BOS and end tokens like Llama's, in which the labels are single tokens."""
    return Tokenizer.from_str(_trained())


@cache
def _trained() -> str:
    prompts = rankrag_prompts()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    turns = [f"Assistant:{label}\n\n" * 50 for label in (prompts.label_true, prompts.label_false)]
    tokenizer.train_from_iterator([prompts.system * 5, prompts.score_turn * 5, *turns], trainer)
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    text: str = tokenizer.to_str()
    return text


def prompt_tokenizer() -> PromptTokenizer:
    return PromptTokenizer(tiny_tokenizer(), rankrag_prompts())


def by_shared_words(prompt: str) -> tuple[float, float]:
    """True is the likelier the more words question and passage share."""
    context, _, turn = prompt.partition("User: ")
    question, _, _ = turn.partition(", access whether")
    shared = _words(question) & _words(context.partition("Passage: ")[2])
    return -1.0 / (1 + len(shared)), -0.5 * (1 + len(shared))


def _words(text: str) -> set[str]:
    return {word.strip(".,?").casefold() for word in text.split()}


async def until(condition: Callable[[], object]) -> None:
    """Wait, for five seconds at most, until something has happened elsewhere in the process."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (what is waited for sets no event)
            await asyncio.sleep(0.001)


def sse(*events: object) -> str:
    """The body of a stream: JSON events, texts as they are."""
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)


@dataclass
class FakeVllm:
    """Answers as vLLM 0.32 does; `instead` may answer, raise or return None to go on, before anything else."""

    tokenizer: Tokenizer = field(default_factory=tiny_tokenizer)
    logprobs: Logprobs = by_shared_words
    completion: Sequence[str] = (" 4,806", " metres")
    max_model_len: int = 512
    instead: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
    delay_s: float = 0.0
    calls: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)  # of each call
    num_under_way: int = 0
    most_under_way: int = 0

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    @property
    def completions(self) -> list[Any]:
        return [body for path, body in self.calls if path == "/v1/completions"]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[VllmClient]:
        async with self.http() as http:
            yield VllmClient(http)

    def http(self, url: str = "http://vllm") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self._answer), base_url=url)

    @asynccontextmanager
    async def engine(self, *, is_checked: bool = True, timeout_s: float = 5.0) -> AsyncIterator[Engine]:
        async with self.client() as client:
            engine = Engine(client, prompt_tokenizer(), read_golden(), interval_s=0.001, timeout_s=timeout_s)
            if is_checked:
                await engine.check()
                self.calls.clear()
            yield engine

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.calls.append((request.url.path, body))
        self.headers.append(request.headers)
        self.num_under_way += 1
        self.most_under_way = max(self.most_under_way, self.num_under_way)
        try:
            await asyncio.sleep(self.delay_s)
            return self._reply(request, body)
        finally:
            self.num_under_way -= 1

    def _reply(self, request: httpx.Request, body: Any) -> httpx.Response:
        if (other := self.instead(request)) is not None:
            return other
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "fake", "max_model_len": self.max_model_len}]})
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": self.tokenizer.encode(body["prompt"]).ids})
        assert request.url.path == "/v1/completions"
        return self._stream(body) if body.get("stream") else self._scores(body)

    def _scores(self, body: Any) -> httpx.Response:
        choices = [
            {
                "index": index,
                "text": "",
                "finish_reason": "length",
                "logprobs": {"top_logprobs": [self._labels(body, prompt)]},
            }
            for index, prompt in enumerate(body["prompt"])
        ]
        usage = {"prompt_tokens": sum(map(len, body["prompt"])), "completion_tokens": len(choices)}
        return httpx.Response(200, json={"choices": choices[::-1], "usage": usage})  # any order is allowed

    def _labels(self, body: Any, prompt: list[int]) -> dict[str, float]:
        logprobs = self.logprobs(self.tokenizer.decode(prompt))
        return {f"token_id:{id_}": logprob for id_, logprob in zip(body["logprob_token_ids"], logprobs, strict=True)}

    def _stream(self, body: Any) -> httpx.Response:
        events: list[object] = [{"choices": [{"index": 0, "text": text}]} for text in self.completion]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(self.completion)}
        text = sse(*events, {"choices": [], "usage": usage}, "[DONE]")
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


async def no_address(host: str) -> list[str]:
    raise OSError(f"nobody knows {host}")


@asynccontextmanager
async def fake_replicas(
    *vllms: FakeVllm, is_checked: bool = True, is_watched: bool = False,
    clock: Callable[[], float] = time.monotonic, calibration: Calibration = UNCALIBRATED, tracer: Tracer = NO_TRACER,
    **settings: Any,
) -> AsyncIterator[Replicas]:  # fmt: skip
    """Replicas `http://vllm-0`, `http://vllm-1` and so on, which are these; `is_watched` runs their watch too."""
    urls = [f"http://vllm-{number}" for number in range(len(vllms))]
    by_url = dict(zip(urls, vllms, strict=True))
    replicas = Replicas(
        VllmSettings.model_validate({"url": ",".join(urls), "health_interval_s": 0.001, **settings}),
        prompt_tokenizer(), read_golden(), calibration=calibration, resolve=no_address, clock=clock,
        open_client=lambda _, url: VllmClient(by_url[url].http(url), tracer),
    )  # fmt: skip
    async with aclosing(replicas):
        if is_checked:
            await replicas.check()
            for vllm in vllms:
                vllm.calls.clear()
                vllm.headers.clear()
        async with running(replicas.run) if is_watched else nullcontext():
            yield replicas


@asynccontextmanager
async def running(loop: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator["asyncio.Task[None]"]:
    """`loop` in the background; what it died of is raised here."""
    task = asyncio.create_task(loop())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
