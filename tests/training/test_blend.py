"""Shares are the paper's, rows are used evenly, and the same seed gives the same examples."""

import logging
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.prompt_files import read_prompts
from service.errors import ConfigError
from service.types import Passage
from training import readers, toy
from training.blend import Blend, Drawn, Lane, open_lanes, read_blend
from training.encoding import Encoded
from training.examples import Example, ExampleMaker
from training.records import Chat, Question, Rows, Turn
from training.templates import read_templates

SOURCES = toy.sources()
FORMATS = {"squad": "squad", "webq": "open_qa", "msmarco": "msmarco", "sft": "instructions"}


def kept(example: Example) -> Encoded:
    return Encoded(
        input_ids=list((example.text + example.completion).encode()), completion_mask=[], family=example.family
    )


@pytest.fixture(scope="session")
def rows(data: Path) -> dict[str, Rows]:
    """Every source of the paper's blend, invented."""
    formats = {line.source: FORMATS.get(line.source, "conversations") for line in read_blend(None, 2).values()}
    return {name: readers.read(SOURCES[format_], data) for name, format_ in formats.items()}


@pytest.fixture(scope="session")
def blend(rows: dict[str, Rows], maker: ExampleMaker) -> Blend:
    return Blend(open_lanes(read_blend(None, 2), rows), maker, seed=7)


def test_the_papers_table() -> None:
    lines = read_blend(None, 2)
    assert sum(line.weight for line in lines.values()) == pytest.approx(1.331)
    ranking = sum(line.weight for line in lines.values() if line.family.endswith("ranking"))
    assert ranking / 1.331 == pytest.approx(0.165, abs=0.001)
    assert lines["msmarco_ranking"].weight / 1.331 == pytest.approx(0.113, abs=0.001)
    assert {line.family for line in lines.values()} == {
        "context_rich_qa", "retrieval_augmented_qa", "retrieval_augmented_ranking", "context_ranking", "instruction",
    }  # fmt: skip


def test_the_first_stage_is_the_instructions_alone() -> None:
    assert set(read_blend(None, 1)) == {"sft"}


def test_drawn_shares_are_the_weights(blend: Blend) -> None:
    drawn = Drawn()
    for _ in blend.encoded(kept, 4000, drawn):
        pass
    assert sum(lane.share for lane in blend.lanes) == pytest.approx(1.0)
    for lane in blend.lanes:
        assert drawn.counts[lane.name] / 4000 == pytest.approx(lane.share, abs=0.025)


def test_half_of_the_ranking_examples_are_true(rows: dict[str, Rows], maker: ExampleMaker) -> None:
    lanes = open_lanes({"m": read_blend(None, 2)["msmarco_ranking"]}, rows)
    texts = [bytes(e["input_ids"]).decode() for e in Blend(lanes, maker, 1).encoded(kept, 600, Drawn())]
    assert sum(text.endswith("Assistant: True") for text in texts) / 600 == pytest.approx(0.5, abs=0.07)


def test_the_same_seed_gives_the_same_and_a_longer_run_begins_alike(blend: Blend) -> None:
    first = list(blend.encoded(kept, 40, Drawn()))
    assert list(blend.encoded(kept, 40, Drawn())) == first
    assert list(islice(blend.encoded(kept, 400, Drawn()), 40)) == first
    assert list(Blend(blend.lanes, blend.maker, 8).encoded(kept, 40, Drawn())) != first


def test_an_unconfigured_source_is_left_out_with_a_warning(
    rows: dict[str, Rows], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        lanes = open_lanes(read_blend(None, 2), {name: rows[name] for name in ("squad", "sft")})
    assert {lane.name: round(lane.share * 0.31, 3) for lane in lanes} == {
        "squad_qa": 0.09, "squad_ranking": 0.02, "sft": 0.2,
    }  # fmt: skip
    assert "blend line drop is left out: its source drop is not configured" in caplog.text


def test_a_source_without_usable_rows_is_left_out(caplog: pytest.LogCaptureFixture, rows: dict[str, Rows]) -> None:
    lanes = open_lanes(read_blend(None, 2), {"msmarco": Rows(questions=(Question("q", "?"),)), "sft": rows["sft"]})
    assert [lane.name for lane in lanes] == ["sft"]
    assert "its source msmarco has no usable row" in caplog.text


def test_no_line_with_data_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no line of the blend has data"):
        open_lanes(read_blend(None, 2), {})


def test_a_wrong_blend_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("drop: {weight: -1, family: instruction, source: sft}\n")
    with pytest.raises(ConfigError, match=r"drop\.weight: .*greater than 0"):
        read_blend(tmp_path / "b.yaml", 2)


@given(st.integers(1, 7), st.integers(1, 4))
def test_every_row_comes_once_before_any_comes_again(size: int, epochs: int) -> None:
    lane = chat_lane(size)
    made = list(Blend([lane], plain_maker(), 3).encoded(kept, size * epochs, Drawn()))
    for start in range(0, size * epochs, size):
        assert len({tuple(example["input_ids"]) for example in made[start : start + size]}) == size
    assert set(Counter(tuple(example["input_ids"]) for example in made).values()) == {epochs}


def test_a_row_that_does_not_fit_is_replaced_and_counted() -> None:
    drawn = Drawn()
    short = list(Blend([chat_lane(3)], plain_maker(), 3).encoded(_unless_zero, 4, drawn))
    assert (len(short), drawn.counts["chats"]) == (4, 4)
    assert drawn.too_long["chats"] >= 1


def test_a_line_where_nothing_fits_is_an_error() -> None:
    with pytest.raises(ConfigError, match="chats: 1000 rows one after another are longer than max_length"):
        list(Blend([chat_lane(3)], plain_maker(), 3).encoded(lambda _: None, 1, Drawn()))


def test_documents_of_conversations_are_cut_for_ranking_but_not_for_reading(rows: dict[str, Rows]) -> None:
    lines = read_blend(None, 2)
    read, ranked = open_lanes({name: lines[name] for name in ("convqa", "convqa_ranking")}, rows)
    assert max(len(passage.text.split()) for question in read.questions for passage in question.relevant) > 150
    parts = [p for question in ranked.questions for p in (*question.relevant, *question.irrelevant)]
    assert max(len(passage.text.split()) for passage in parts) <= 150
    assert all(isinstance(passage, Passage) for passage in parts)


def _unless_zero(example: Example) -> Encoded | None:
    return None if example.completion == " 0" else kept(example)


def chat_lane(size: int) -> Lane:
    chats = [Chat((Turn("user", "Count."), Turn("assistant", str(number)))) for number in range(size)]
    return Lane("chats", read_blend(None, 1)["sft"], 1.0, chats=chats)


def plain_maker() -> ExampleMaker:
    return ExampleMaker(read_prompts("rankrag-v1").prompts, read_templates())
