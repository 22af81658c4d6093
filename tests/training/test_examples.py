"""Ranking and answering are asked for exactly as the service asks."""

import random

import pytest

from service.core.prompts import PromptSet
from service.types import Passage
from training.encoding import ExampleEncoder
from training.examples import MAX_DOCUMENT_WORDS, ExampleMaker, around_answer, five, is_usable
from training.records import Chat, Question, Turn

GOLD = Passage("g", "It  was opened\nin 1931.", "Arden Bridge.")
NEGATIVES = tuple(Passage(f"n{number}", f"Nothing of the kind, number {number}.", f"T{number}") for number in range(9))
QUESTION = Question("q", "When was it\nopened?", ("1931", "in 1931"), relevant=(GOLD,), irrelevant=NEGATIVES)
HISTORY = (Turn("user", "What is it?"), Turn("assistant", "A bridge."))


def maker_with(maker: ExampleMaker, *, positive: float = 0.5, abstention: float = 0.0) -> ExampleMaker:
    return ExampleMaker(maker.prompts, maker.templates, positive, abstention)


@pytest.mark.parametrize(("positive", "label"), [(1.0, " True"), (0.0, " False")])
def test_the_ranking_prompt_is_the_services_own(
    maker: ExampleMaker, encoder: ExampleEncoder, positive: float, label: str
) -> None:
    example = maker_with(maker, positive=positive).context_ranking(QUESTION, random.Random(1))
    shown = GOLD if positive else next(p for p in NEGATIVES if p.text in example.text)
    served = encoder.tokenizer.score_prompt(QUESTION.text, shown.title, shown.text, max_tokens=1024)
    assert example.text == maker.prompts.score_prompt(QUESTION.text, _text(maker.prompts, shown)).text
    assert encoder.prompt_ids(example, room=1) == list(served.ids)
    assert example.completion == label


def test_the_answering_prompt_is_the_services_own(maker: ExampleMaker, encoder: ExampleEncoder) -> None:
    example = maker_with(maker).retrieval_augmented_qa(QUESTION, random.Random(3))
    shown = sorted((GOLD, *NEGATIVES), key=lambda p: example.text.find(p.title) if p.title in example.text else 10**6)
    passages = [(passage.title, passage.text) for passage in shown[:5]]
    served = encoder.tokenizer.answer_prompt(QUESTION.text, passages, max_tokens=1024)
    assert encoder.prompt_ids(example, room=1) == list(served.ids)
    assert (example.completion, GOLD in shown[:5]) == (" 1931", True)


def test_a_long_ranking_prompt_is_cut_as_the_service_cuts_it(maker: ExampleMaker, encoder: ExampleEncoder) -> None:
    long = Passage("l", "word " * 3000, "Long")
    question = Question("q", "Why?", ("x",), relevant=(long,), irrelevant=(long,))
    example = maker.context_ranking(question, random.Random(0))
    served = encoder.tokenizer.score_prompt("Why?", long.title, long.text, max_tokens=1023)
    assert served.is_cut
    assert encoder.prompt_ids(example, room=1) == list(served.ids)


def test_the_typo_the_paper_trained_on_is_kept(maker: ExampleMaker) -> None:
    assert "access whether the passage is relevant" in maker.context_ranking(QUESTION, random.Random(0)).text


def test_the_history_stands_between_the_passage_and_the_question(maker: ExampleMaker) -> None:
    question = Question("q", "How old?", ("9",), (GOLD,), NEGATIVES, history=HISTORY)
    text = maker_with(maker, positive=1.0).context_ranking(question, random.Random(0)).text
    passage, history, asked = (
        "opened in 1931.",
        "User: What is it?\n\nAssistant: A bridge.\n\n",
        "For the question How old?",
    )
    assert text.index(passage) < text.index(history) < text.index(asked)


def test_a_question_without_answer_gets_the_abstention_and_keeps_its_own_passage(maker: ExampleMaker) -> None:
    question = Question("q", "How wide?", irrelevant=(GOLD, *NEGATIVES), is_answerable=False)
    for seed in range(20):
        example = maker.retrieval_augmented_qa(question, random.Random(seed))
        assert example.completion == " " + maker.prompts.abstention
        assert "opened in 1931" in example.text
        assert len(example.passages) == 5


def test_an_answerable_question_that_loses_its_passage_abstains(maker: ExampleMaker) -> None:
    example = maker_with(maker, abstention=1.0).retrieval_augmented_qa(QUESTION, random.Random(0))
    assert maker.prompts.is_abstention(example.completion)
    assert "1931" not in example.text


def test_the_numbers_of_the_relevant_passages_are_what_is_learnt(maker: ExampleMaker) -> None:
    both = Question("q", "When?", ("1931",), relevant=(GOLD, Passage("h", "In 1931.", "Also")), irrelevant=NEGATIVES)
    for seed in range(20):
        example = maker.retrieval_augmented_ranking(both, random.Random(seed))
        numbers = [number for number, text in enumerate(example.passages, start=1) if "1931" in text]
        assert example.completion == " " + ", ".join(map(str, numbers))
        assert (len(numbers), len(example.passages)) == (2, 5)
        assert "Passage 5: " in example.text


def test_places_are_shuffled() -> None:
    places = {five(QUESTION, [GOLD], random.Random(seed), ()).index(GOLD) for seed in range(60)}
    assert places == {0, 1, 2, 3, 4}


def test_fillers_are_neither_relevant_nor_answers() -> None:
    question = Question("q", "When?", ("1931",), relevant=(GOLD,))
    fillers = [GOLD, Passage("x", "Built in 1931."), *NEGATIVES[:5]]
    for seed in range(20):
        shown = five(question, [GOLD], random.Random(seed), fillers)
        assert len(shown) == len({passage.id for passage in shown}) == 5
        assert "x" not in {passage.id for passage in shown}


def test_context_rich_qa_has_the_document_and_an_instruction(maker: ExampleMaker) -> None:
    example = maker.context_rich_qa(QUESTION, "number")
    assert "Passage: Arden Bridge. It was opened in 1931.\n\nUser: Answer the following question with a number" in (
        example.text
    )
    assert example.completion == " 1931"


def test_instructions_keep_their_line_breaks_and_learn_the_last_turn(maker: ExampleMaker) -> None:
    chat = Chat((*HISTORY, Turn("user", "List:\n- a"), Turn("assistant", "1\n2")))
    example = maker.instruction(chat)
    assert example.text.endswith("Assistant: A bridge.\n\nUser: List:\n- a\n\nAssistant:")
    assert example.completion == " 1\n2"


def test_braces_in_texts_are_only_characters(maker: ExampleMaker) -> None:
    odd = Question("q", "What is {passage}?", ("{x}",), (Passage("a", "{text} {0}"),), NEGATIVES)
    assert "{text} {0}" in maker_with(maker, positive=1.0).context_ranking(odd, random.Random(0)).text
    assert "What is {passage}?" in maker.context_rich_qa(odd, "short").text


def test_long_documents_are_cut_around_the_answer() -> None:
    document = " ".join(f"Word{number} is here." for number in range(3000))
    kept = around_answer(document, "Word1500 is here")
    assert "Word1500 " in kept
    assert len(kept.split()) <= MAX_DOCUMENT_WORDS


@pytest.mark.parametrize(
    ("family", "question", "usable"),
    [
        ("context_ranking", QUESTION, True),
        ("context_ranking", Question("q", "?", relevant=(GOLD,)), False),
        ("retrieval_augmented_qa", Question("q", "?", relevant=(GOLD,)), False),  # no short answer is known
        ("retrieval_augmented_ranking", Question("q", "?", relevant=(GOLD,)), True),
        ("retrieval_augmented_qa", Question("q", "?", irrelevant=(GOLD,), is_answerable=False), True),
        ("context_rich_qa", Question("q", "?", ("a",)), False),
    ],
)
def test_which_questions_serve_what(family: str, question: Question, usable: bool) -> None:
    assert is_usable(family, question) is usable  # type: ignore[arg-type]


def _text(prompts: PromptSet, passage: Passage) -> str:
    return prompts.passage_text(passage.title, passage.text)
