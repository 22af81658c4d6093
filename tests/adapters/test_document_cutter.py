"""Documents cut by the checkpoint's own tokens."""

import pytest

from service.adapters.document_cutter import TokenCutter
from service.errors import EngineError, RequestError, TooLargeError
from service.types import Passage
from tests.fake_vllm import prompt_tokenizer

QUESTION = "How high is Mont Blanc?"
SENTENCES = [f"The peak number {number} rises to {number + 1000} metres." for number in range(30)]
LONG = Passage("long", " ".join(SENTENCES), "Peaks")
SHORT = Passage("short", "Mont Blanc.")
ODD = Passage("odd", "Ünïcödé 😀 <|eot_id|> " * 40)
TOKENIZER = prompt_tokenizer()


def cutter(max_model_len: int = 10_000) -> TokenCutter:
    return TokenCutter(TOKENIZER, lambda: max_model_len)


@pytest.mark.parametrize("max_tokens", [1, 2, 7, 50])
@pytest.mark.parametrize("passage", [LONG, ODD])
async def test_only_so_many_tokens_stay(passage: Passage, max_tokens: int) -> None:
    [first] = await cutter().cut(QUESTION, [passage], max_tokens=max_tokens)
    [last] = await cutter().cut(QUESTION, [passage], max_tokens=max_tokens, keeps_end=True)
    assert passage.text.startswith(first.text) and passage.text.endswith(last.text)
    assert max_tokens - 4 <= TOKENIZER.count(first.text) <= max_tokens
    assert max_tokens - 4 <= TOKENIZER.count(last.text) <= max_tokens
    assert (first.id, first.title) == (passage.id, passage.title)


async def test_short_documents_stay_as_they_are() -> None:
    passages = [SHORT, LONG]
    assert await cutter().cut(QUESTION, passages, max_tokens=5_000) == passages
    assert await cutter().chunks(QUESTION, passages, max_tokens=5_000, max_chunks=2) == [[SHORT], [LONG]]


async def test_chunks_end_with_sentences_and_hold_the_whole_text() -> None:
    [chunks] = await cutter().chunks(QUESTION, [LONG], max_tokens=100, max_chunks=50)
    assert len(chunks) > 3
    assert " ".join(chunk.text for chunk in chunks) == LONG.text
    assert all(chunk.text.endswith("metres.") and chunk.title == "Peaks" for chunk in chunks)
    assert all(TOKENIZER.count(chunk.text) <= 100 for chunk in chunks)


async def test_first_chunks_alone_may_be_wanted() -> None:
    all_chunks = await cutter().chunks(QUESTION, [LONG], max_tokens=100, max_chunks=50)
    first = await cutter().chunks(QUESTION, [LONG], max_tokens=100, max_chunks=2, max_chunks_per_document=2)
    assert first == [all_chunks[0][:2]]


async def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(TooLargeError) as caught:
        await cutter().chunks(QUESTION, [LONG, LONG], max_tokens=2, max_chunks=100)
    assert (caught.value.field, caught.value.limit) == ("documents", 100)


async def test_text_of_nothing_is_one_chunk() -> None:
    assert await cutter().chunks(QUESTION, [Passage("blank", " " * 99)], max_tokens=3, max_chunks=1) == [
        [Passage("blank", "")]
    ]


@pytest.mark.parametrize("max_tokens", [None, 5_000])
async def test_never_more_than_the_context_has_room_for(max_tokens: int | None) -> None:
    max_model_len = 300
    tight = cutter(max_model_len)
    [chunks] = await tight.chunks(QUESTION, [LONG], max_tokens=max_tokens, max_chunks=50)
    [last] = await tight.cut(QUESTION, [LONG], max_tokens=max_tokens, keeps_end=True)
    assert len(chunks) > 1
    for passage in [*chunks, last]:
        prompt = TOKENIZER.score_prompt(QUESTION, passage.title, passage.text, max_tokens=max_model_len - 1)
        assert not prompt.is_cut


async def test_question_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        await cutter(100).cut(QUESTION * 50, [LONG], max_tokens=5)
    assert caught.value.field == "query"


async def test_without_an_engine_nothing_is_known_of_the_room() -> None:
    def none_is_up() -> int:
        raise EngineError("none")

    with pytest.raises(EngineError):
        await TokenCutter(TOKENIZER, none_is_up).cut(QUESTION, [LONG], max_tokens=5)
