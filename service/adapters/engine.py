"""The served checkpoint: is it the right one, does it work, and what it is called.

Nothing is scored or generated before the checkpoint has been verified, and nothing while it is down:
callers then get an EngineError at once instead of waiting for a connection.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from service.adapters.tokenizer import Labels, PromptTokenizer
from service.adapters.vllm_client import ServedModel, VllmClient
from service.core.scoring import UNCALIBRATED, Calibration, score_from_logprobs
from service.errors import (
    CheckpointError,
    DeadlineError,
    EngineError,
    EngineOverloadedError,
    EngineRefusedError,
    RankRAGError,
    RequestError,
)
from service.types import Score

log = structlog.get_logger(__name__)

# One text with what tokenizers disagree on: accents, other scripts, digits, line breaks, odd spaces.
PROBE_TEXT = "Probe: 1,865 metres; naïve façade, Ωμέγα, 漢字 and  two spaces.\n\nUser: True?\n\nAssistant: False"


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A question with a passage that answers it and one that does not."""

    question: str
    relevant: str
    irrelevant: str


@dataclass(frozen=True, slots=True)
class EngineState:
    """`model` is set once verified; `reason` says why the engine is not ready."""

    is_ready: bool = False
    reason: str = "the checkpoint has not been verified yet"
    model: ServedModel | None = None


class Engine:
    """What is known of one vLLM server; `model` is the gate that every call goes through.

    `priority` is that of its own checks, where vLLM schedules by priority.
    """

    def __init__(
        self, client: VllmClient, tokenizer: PromptTokenizer, golden: Sequence[GoldenPair], *,
        interval_s: float, timeout_s: float, clock: Callable[[], float] = time.monotonic,
        observe: Callable[[bool], None] = lambda _: None, priority: int | None = None,
        calibration: Calibration = UNCALIBRATED,
    ) -> None:  # fmt: skip
        self.client = client
        self.tokenizer = tokenizer
        self.calibration = calibration
        self.labels: Labels = tokenizer.labels()
        self._golden = tuple(golden)
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._observe = observe
        self._clock = clock
        self._priority = priority
        self._progressed_s = self._changed_s = float("-inf")
        self._is_due = asyncio.Event()
        self._is_due.set()  # for the first check of all
        self.state = EngineState()

    def model(self) -> ServedModel:
        """What is served, if it is up.

        Raises:
            EngineError: it is down or was never verified; says which.
        """
        if not self.state.is_ready or self.state.model is None:
            raise EngineError(self.state.reason)
        return self.state.model

    def note_progress(self) -> None:
        """vLLM has just answered a call: whatever a canary is waiting for, the engine is not hung."""
        self._progressed_s = self._clock()

    def take_out(self, reason: str, *, check_now: bool = True) -> None:
        """A call failed as it does where the engine is at fault: no more work until it is verified again.

        Without `check_now` that is after one interval.
        """
        if self.state.is_ready:
            self._enter(replace(self.state, is_ready=False, reason=reason))
            if check_now:
                self._is_due.set()

    def has_just_returned(self) -> bool:
        """Whether it became ready less than an interval ago."""
        return self.state.is_ready and self._clock() - self._changed_s < self._interval_s

    async def due(self) -> None:
        """Wait until the next check is due: an interval from now, or sooner where one is wanted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_s):
                await self._is_due.wait()

    async def check(self) -> None:
        """Verify the checkpoint if it was down, else ask for one canary score.

        Raises:
            CheckpointError: what is served is not what is configured, or can't rank. Being down is no error
                here, only a state.
        """
        begun_s, before = self._clock(), self.state
        self._is_due.clear()
        try:
            async with asyncio.timeout(self._timeout_s):
                model = await self._canary() if self.state.is_ready else await self._verify()
        except (DeadlineError, TimeoutError):
            if self._progressed_s < begun_s:  # under load a canary may wait behind work that is being done
                reason = f"vLLM gave no canary score within {self._timeout_s:g} s"
                self._enter(replace(self.state, is_ready=False, reason=reason))
        except EngineOverloadedError as exc:
            is_working = before.is_ready and self._progressed_s >= begun_s - self._interval_s
            if not is_working:  # else other calls have every place, and are answered
                self._enter(replace(self.state, is_ready=False, reason=exc.message))
        except EngineError as exc:
            self._enter(replace(self.state, is_ready=False, reason=exc.message))
        except CheckpointError as exc:
            self._enter(EngineState(is_ready=False, reason=exc.message))
            raise
        else:
            if self.state is before:  # else it was taken out meanwhile, for something that came after the score
                self._enter(EngineState(is_ready=True, reason="", model=model))

    def _enter(self, state: EngineState) -> None:
        if state.is_ready != self.state.is_ready:
            log.info("engine_ready" if state.is_ready else "engine_down", url=self.client.url, reason=state.reason)
            self._changed_s = self._clock()
        self.state = state
        self._observe(state.is_ready)

    async def _canary(self) -> ServedModel:
        model = self.model()
        await self._scores(model, [(self._golden[0].question, self._golden[0].relevant)])
        return model

    async def _verify(self) -> ServedModel:
        model = await self.client.served_model(timeout_s=self._timeout_s)
        await self._verify_tokenizer(model)
        await self._verify_ranking(model)
        return model

    async def _verify_tokenizer(self, model: ServedModel) -> None:
        theirs = await self.client.tokenize(model.id, PROBE_TEXT, timeout_s=self._timeout_s)
        if theirs != self.tokenizer.encode(PROBE_TEXT):
            raise CheckpointError(
                f"vLLM serves {model.id!r} with another tokenizer than the configured checkpoint's: "
                "set RANKRAG_CHECKPOINT to the model that vLLM serves"
            )

    async def _verify_ranking(self, model: ServedModel) -> None:
        pairs = [(g.question, text) for g in self._golden for text in (g.relevant, g.irrelevant)]
        scores = await self._scores(model, pairs)
        wrong = [
            golden.question
            for golden, good, bad in zip(self._golden, scores[::2], scores[1::2], strict=True)
            if good.relevance <= bad.relevance
        ]
        if wrong:
            raise CheckpointError(
                f"{model.id!r} ranks {len(wrong)} of {len(self._golden)} golden pairs the wrong way round "
                f"(first: {wrong[0]!r}): it is not a RankRAG checkpoint, or not for the prompts "
                f"{self.tokenizer.prompts.id}"
            )

    async def _scores(self, model: ServedModel, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        limit = model.max_model_len - 1
        try:
            prompts = [self.tokenizer.score_prompt(q, "", text, max_tokens=limit).ids for q, text in pairs]
        except RequestError as exc:
            raise CheckpointError(
                f"vLLM serves {model.id!r} with a context of {model.max_model_len} tokens, too short for a golden pair"
            ) from exc
        found, _ = await self.client.label_logprobs(
            model.id, prompts, self.labels, timeout_s=self._timeout_s, priority=self._priority
        )
        return [score_from_logprobs(logprobs.true, logprobs.false, self.calibration) for logprobs in found]


def is_engines_fault(error: RankRAGError) -> bool:
    """Whether a call failed so that its engine should get no other before it has passed a trial.

    One that refuses this request or more work for now is alive, and one that is slow may only have much to do.
    """
    return isinstance(error, EngineError) and not isinstance(error, EngineOverloadedError | EngineRefusedError)


async def supervise(loop: Callable[[], object], on_death: Callable[[BaseException], None]) -> None:
    """Await the background loop that must not end; its end, however it came, is told to `on_death`."""
    try:
        await loop()  # type: ignore[misc]
    except RankRAGError as exc:
        log.error("background_loop_died", error=exc.message)
        on_death(exc)
    except Exception as exc:
        log.exception("background_loop_died")
        on_death(exc)
