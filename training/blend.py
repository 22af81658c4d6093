"""The blend: which source fills which line, with which share, and the examples drawn from it."""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from service.errors import ConfigError
from service.types import Passage
from training.config import StageNumber, Strict, read_yaml
from training.encoding import Encoded
from training.examples import Example, ExampleMaker, Family, is_usable
from training.records import Chat, Question, Rows, distinct
from training.relevance import judged

log = logging.getLogger(__name__)

FILE = Path(__file__).with_name("blend.yaml")
_MAX_LOST = 1000  # rows in a line, one after another, that are longer than the maximum length


class Line(Strict):
    weight: float = Field(gt=0)
    family: Family
    source: str
    instruction: str = "short"


@dataclass(frozen=True, slots=True)
class Lane:
    """One line of the blend with its usable rows and its normalised share."""

    name: str
    line: Line
    share: float
    questions: Sequence[Question] = ()
    chats: Sequence[Chat] = ()
    fillers: Sequence[Passage] = ()

    @property
    def size(self) -> int:
        return len(self.questions) + len(self.chats)


def read_blend(path: Path | None, stage: StageNumber) -> dict[str, Line]:
    """The lines by name. Stage I is the blend's instruction lines alone.

    Raises:
        ConfigError: names the line and the key that is wrong.
    """
    path = path or FILE
    try:
        lines = TypeAdapter(dict[str, Line]).validate_python(read_yaml(path))
    except ValidationError as exc:
        wrong = [f"{path}: {'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()]
        raise ConfigError("\n".join(wrong)) from exc
    return {name: line for name, line in lines.items() if stage == 2 or line.family == "instruction"}


def open_lanes(lines: Mapping[str, Line], sources: Mapping[str, Rows]) -> list[Lane]:
    """The lines that have usable rows, their weights normalised; warns of each that is left out.

    Raises:
        ConfigError: no line is left.
    """
    lanes = [_lane(name, line, sources[line.source]) for name, line in lines.items() if line.source in sources]
    lanes = [lane for lane in lanes if lane.size]
    filled = {lane.name for lane in lanes}
    for name in (name for name in lines if name not in filled):
        source = lines[name].source
        reason = "has no usable row" if source in sources else "is not configured"
        log.warning("blend line %s is left out: its source %s %s", name, source, reason)
    if not lanes:
        raise ConfigError(
            f"no line of the blend has data; its sources are {sorted({x.source for x in lines.values()})}"
        )
    total = sum(lane.line.weight for lane in lanes)
    return [
        Lane(lane.name, lane.line, lane.line.weight / total, lane.questions, lane.chats, lane.fillers) for lane in lanes
    ]


def _lane(name: str, line: Line, rows: Rows) -> Lane:
    if line.family == "instruction":
        return Lane(name, line, 0.0, chats=rows.chats)
    questions: Sequence[Question] = rows.questions
    if rows.has_documents and line.family != "context_rich_qa":
        questions = [judged(question) for question in questions]
    usable = [question for question in questions if is_usable(line.family, question)]
    fillers = rows.corpus or distinct(p for question in questions for p in (*question.irrelevant, *question.relevant))
    return Lane(name, line, 0.0, questions=usable, fillers=fillers)


@dataclass(slots=True)
class Drawn:
    """How many examples each line gave, and how many rows did not fit."""

    counts: dict[str, int] = field(default_factory=dict)
    too_long: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Blend:
    """Draws examples. The i-th example depends on the seed and i alone, not on how many are drawn.

    Within a line every row comes once before any comes again.
    """

    lanes: Sequence[Lane]
    maker: ExampleMaker
    seed: int

    def encoded(self, encode: Callable[[Example], Encoded | None], count: int, drawn: Drawn) -> Iterator[Encoded]:
        """`count` examples as token ids; one that does not fit is replaced by the next of the same line.

        Raises:
            ConfigError: a line has nothing that fits.
        """
        chooser = random.Random(f"{self.seed}/lines")
        streams = {lane.name: self._lane_examples(lane) for lane in self.lanes}
        weights = [lane.share for lane in self.lanes]
        for _ in range(count):
            lane = chooser.choices(self.lanes, weights)[0]
            yield self._first_fitting(lane, streams[lane.name], encode, drawn)
            drawn.counts[lane.name] = drawn.counts.get(lane.name, 0) + 1

    def _first_fitting(
        self, lane: Lane, stream: Iterator[Example], encode: Callable[[Example], Encoded | None], drawn: Drawn
    ) -> Encoded:
        for _ in range(_MAX_LOST):
            found = encode(next(stream))
            if found is not None:
                return found
            drawn.too_long[lane.name] = drawn.too_long.get(lane.name, 0) + 1
        raise ConfigError(f"{lane.name}: {_MAX_LOST} rows one after another are longer than max_length")

    def _lane_examples(self, lane: Lane) -> Iterator[Example]:
        number = 0
        while True:
            order = list(range(lane.size))
            random.Random(f"{self.seed}/{lane.name}/{number}").shuffle(order)
            for row in order:
                yield self._example(lane, row, random.Random(f"{self.seed}/{lane.name}/{number}"))
                number += 1

    def _example(self, lane: Lane, row: int, rng: random.Random) -> Example:
        match lane.line.family:
            case "instruction":
                return self.maker.instruction(lane.chats[row])
            case "context_rich_qa":
                return self.maker.context_rich_qa(lane.questions[row], lane.line.instruction)
            case "context_ranking":
                return self.maker.context_ranking(lane.questions[row], rng)
            case "retrieval_augmented_qa":
                return self.maker.retrieval_augmented_qa(lane.questions[row], rng, lane.fillers)
            case "retrieval_augmented_ranking":
                return self.maker.retrieval_augmented_ranking(lane.questions[row], rng, lane.fillers)
