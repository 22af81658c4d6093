"""Every format gives questions whose relevant passages hold the answer, and refuses rows that are wrong."""

import json
from pathlib import Path

import pytest

from service.errors import CorpusError
from training import config, readers, toy
from training.answers import holds_answer

SOURCES = toy.sources()


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"instructions"}))
def test_relevant_passages_hold_the_answer_and_irrelevant_ones_do_not(name: str, data: Path) -> None:
    rows = readers.read(SOURCES[name], data)
    assert rows.questions
    for question in rows.questions:
        if question.is_answerable:
            assert question.relevant
            assert all(holds_answer(p.text, question.answers) for p in question.relevant if question.answers)
        else:
            assert (question.answers, question.relevant, len(question.irrelevant)) == ((), (), 1)


def test_squad_and_the_projects_own_format_say_the_same(data: Path) -> None:
    def asked(name: str) -> set[tuple[str, tuple[str, ...], bool]]:
        return {(q.text, q.answers, q.is_answerable) for q in readers.read(SOURCES[name], data).questions}

    assert asked("squad") == asked("project")


def test_the_three_shapes_of_msmarco_say_the_same(data: Path) -> None:
    names = {"queries": Path("queries.tsv"), "collection": Path("collection.tsv")}
    ids = config.MsMarcoSource(format="msmarco", id_triples=Path("qidpidtriples.tsv"), **names)
    qrels = config.MsMarcoSource(format="msmarco", qrels=Path("qrels.tsv"), **names)

    def pairs(source: config.Source) -> set[tuple[str, str]]:
        return {(q.text, p.text) for q in readers.read(source, data).questions for p in q.relevant}

    assert pairs(SOURCES["msmarco"]) == pairs(ids) == pairs(qrels)
    assert all(question.irrelevant for question in readers.read(ids, data).questions)
    assert len(readers.read(qrels, data).corpus) == 12


def test_msmarco_reads_no_more_than_asked_for(data: Path) -> None:
    source = config.MsMarcoSource(format="msmarco", triples=Path("triples.tsv"), max_rows=3)
    assert len(readers.read(source, data).questions) == 3


def test_kilt_rows_find_their_pages(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "9", "title": "T", "text": "It is blue."}\n')
    row = {"id": "k", "input": "What colour?", "output": [{"answer": "blue", "provenance": [{"wikipedia_id": "9"}]}]}
    (tmp_path / "k.jsonl").write_text(json.dumps(row) + "\n")
    source = config.OpenQASource(format="open_qa", path=Path("k.jsonl"), passages=Path("p.jsonl"))
    (question,) = readers.read(source, tmp_path).questions
    assert (question.answers, [passage.id for passage in question.relevant]) == (("blue",), ["9"])


def test_natural_questions_open_has_answers_alone(tmp_path: Path) -> None:
    (tmp_path / "nq.jsonl").write_text('{"question": "who?", "answer": ["me", "I"]}\n')
    (question,) = readers.read(config.OpenQASource(format="open_qa", path=Path("nq.jsonl")), tmp_path).questions
    assert (question.answers, question.relevant) == (("me", "I"), ())


def test_instructions_in_all_their_shapes(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"prompt": "Hi", "response": "Ho"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}], "answers": ["Ho"]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    ]
    (tmp_path / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = config.InstructionSource(format="instructions", paths=[Path("i.jsonl")])
    chats = readers.read(source, tmp_path).chats
    assert [[turn.text for turn in chat.turns] for chat in chats] == [["Add.\n1 2", "3"], *[["Hi", "Ho"]] * 3]


@pytest.mark.parametrize("answers", [["a", "b"], [["a"], ["b"]], [["a", "b"]], [{"text": "a"}, {"text": "b"}]])
def test_answers_of_conversations_in_all_their_shapes(tmp_path: Path, answers: list[object]) -> None:
    row = {"messages": [{"role": "user", "content": "q"}], "document": "d", "answers": answers}
    (tmp_path / "c.json").write_text(json.dumps([row]))
    source = config.ConversationSource(format="conversations", path=Path("c.json"))
    (question,) = readers.read(source, tmp_path).questions
    assert question.answers == ("a", "b")


@pytest.mark.parametrize(
    ("source", "row", "error"),
    [
        (config.ConversationSource(format="conversations", path=Path("x")), {"messages": []}, "`messages`"),
        (config.ConversationSource(format="conversations", path=Path("x")),
         {"messages": [{"role": "user", "content": "q"}], "document": "d"}, "x:1: `answers`"),
        (config.ConversationSource(format="conversations", path=Path("x")),
         {"messages": [{"role": "user", "content": "q"}], "answers": ["a"]}, "x:1: `document`"),
        (config.OpenQASource(format="open_qa", path=Path("x")), {"question": "q"}, "x:1: `answers`"),
        (config.CandidatesSource(format="candidates", path=Path("x")),
         {"id": "1", "query": "q", "candidates": [{"id": "a"}]}, r"x:1: candidates\[0\]: `text`"),
        (config.InstructionSource(format="instructions", paths=[Path("x")]), {"instruction": "i"}, "x:1: `output`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, source: config.Source, row: dict[str, object], error: str) -> None:
    (tmp_path / "x").write_text(json.dumps(row) + "\n")
    with pytest.raises(CorpusError, match=error):
        readers.read(source, tmp_path)


def test_a_question_about_an_unknown_passage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "t"}\n')
    (tmp_path / "q.jsonl").write_text('{"id": "q", "question": "?", "answers": ["x"], "passage_id": "b"}\n')
    source = config.ProjectSource(format="project", passages=Path("p.jsonl"), questions=[Path("q.jsonl")])
    with pytest.raises(CorpusError, match=r"q\.jsonl:1: `passage_id` must be the id of a passage"):
        readers.read(source, tmp_path)


def test_missing_files_are_found_before_reading(tmp_path: Path) -> None:
    assert [path.name for path in readers.missing(SOURCES["project"], tmp_path)] == [
        "passages.jsonl", "questions.jsonl", "unanswerable.jsonl",
    ]  # fmt: skip
