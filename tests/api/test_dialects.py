"""What a rerank request means, whichever client wrote it."""

from typing import Any

import pytest

from service.api.dialects import CHUNK_TOKENS, DIALECT_OF, Cut, Dialect, Ranking, dialect_of, passage_of, ranking_of
from service.api.rerank_schemas import DocumentBody, RerankRequest, TextsRequest
from service.core.access import SCOPE_OF
from service.errors import RequestError
from service.types import Passage


def asked(dialect: Dialect = Dialect.VLLM, **body: Any) -> Ranking:
    return ranking_of(dialect, RerankRequest.model_validate({"query": "q", "documents": ["a", "b"], **body}))


def asked_texts(**body: Any) -> Ranking:
    return ranking_of(Dialect.TEI, TextsRequest.model_validate({"query": "q", "texts": ["a", "b"], **body}))


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/rerank", {"documents": ["a"]}, Dialect.VLLM),
        ("/rerank", {"texts": ["a"]}, Dialect.TEI),
        ("/rerank", {"texts": []}, Dialect.TEI),
        ("/rerank", {"texts": ["a"], "documents": None}, Dialect.TEI),
        ("/rerank", {"texts": ["a"], "documents": ["a"]}, Dialect.VLLM),
        ("/rerank", {"texts": None}, Dialect.VLLM),
        ("/rerank", ["texts"], Dialect.VLLM),
        ("/rerank", None, Dialect.VLLM),
        ("/v1/rerank", {"texts": ["a"]}, Dialect.JINA),
        ("/v2/rerank", {"documents": ["a"]}, Dialect.COHERE),
        ("/infinity/rerank", {"documents": ["a"]}, Dialect.INFINITY),
        ("/answer", {"texts": ["a"]}, None),
    ],
)
def test_dialect_is_told_by_path_and_fields(path: str, body: object, expected: Dialect | None) -> None:
    assert dialect_of(path, body) is expected


@pytest.mark.parametrize(
    ("dialect", "default"),
    [(Dialect.VLLM, False), (Dialect.JINA, True), (Dialect.COHERE, False), (Dialect.INFINITY, False)],
)
def test_texts_are_given_back_as_the_dialect_has_it_unless_the_request_says(dialect: Dialect, default: bool) -> None:
    assert asked(dialect).gives_texts is default
    assert asked(dialect, return_documents=None).gives_texts is default
    for said in (False, True):
        assert asked(dialect, return_documents=said).gives_texts is said


def test_tei_gives_texts_back_where_asked_to() -> None:
    assert (asked_texts().gives_texts, asked_texts(return_text=True).gives_texts) == (False, True)


@pytest.mark.parametrize(("top_n", "expected"), [(None, None), (0, None), (1, 1), (2, None), (3, None)])
def test_top_k_is_what_is_wanted_of_more(top_n: int | None, expected: int | None) -> None:
    assert asked(top_n=top_n).top_k == expected


@pytest.mark.parametrize(
    ("body", "cut"),
    [
        ({}, Cut()),
        ({"max_tokens_per_doc": None, "long_documents": None, "max_chunks_per_doc": None}, Cut()),
        ({"max_tokens_per_doc": 0}, Cut()),
        ({"max_tokens_per_doc": 7}, Cut(7)),
        ({"long_documents": "max_chunk"}, Cut(CHUNK_TOKENS, "max_chunk")),
        ({"long_documents": "max_chunk", "max_tokens_per_doc": 0}, Cut(CHUNK_TOKENS, "max_chunk")),
        ({"long_documents": "max_chunk", "max_tokens_per_doc": 9, "max_chunks_per_doc": 2}, Cut(9, "max_chunk", 2)),
    ],
)
def test_long_documents_are_cut_as_said(body: dict[str, Any], cut: Cut) -> None:
    found = asked(**body).cut
    assert found == cut
    assert found.is_needed is (cut != Cut())


@pytest.mark.parametrize(("said", "kept"), [("left", "right"), ("Left", "right"), ("right", "left"), ("RIGHT", "left")])
def test_the_side_that_tei_cuts_off_is_not_the_one_that_stays(said: str, kept: str) -> None:
    assert asked_texts(truncation_direction=said).cut.kept_side == kept
    assert asked_texts(truncation_direction=said).cut.is_needed is (kept == "right")


DOCUMENT = DocumentBody.model_validate(
    {"text": "Text.", "title": "Title", "name": "Mont Blanc", "height": 4806, "hidden": None, "tags": ["a"]}
)


@pytest.mark.parametrize(
    ("rank_fields", "text", "title"),
    [
        (None, "Text.", "Title"),
        (["text"], "Text.", ""),
        (["title"], "Title", ""),
        (["name"], "Mont Blanc", ""),
        (["title", "text"], "Text.", "Title"),
        (["name", "height"], "name: Mont Blanc\nheight: 4806", ""),
        (["height", "name"], "height: 4806\nname: Mont Blanc", ""),
        (["title", "name", "text"], "name: Mont Blanc\ntext: Text.", "Title"),
        (["hidden", "name", "missing"], "Mont Blanc", ""),
    ],
)
def test_text_is_made_of_the_ranked_fields(rank_fields: list[str] | None, text: str, title: str) -> None:
    assert passage_of(3, DOCUMENT, rank_fields) == Passage("3", text, title)


def test_rank_fields_mean_nothing_for_texts() -> None:
    assert passage_of(0, "plain", ["name"]) == Passage("0", "plain")


@pytest.mark.parametrize(
    ("document", "rank_fields", "field"),
    [
        ({"image": "x"}, None, "documents.4.text"),
        ({"text": "x"}, ["name"], "documents.4"),
        ({"name": None}, ["name"], "documents.4"),
        ({"name": ["x"]}, ["name"], "documents.4.name"),
        ({"name": {"first": "x"}}, ["name"], "documents.4.name"),
    ],
)
def test_documents_without_a_text_are_refused(
    document: dict[str, Any], rank_fields: list[str] | None, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        passage_of(4, DocumentBody.model_validate(document), rank_fields)
    assert caught.value.field == field


def test_the_paths_are_those_that_a_key_for_reranking_opens() -> None:
    assert set(DIALECT_OF) == {path for path, scope in SCOPE_OF.items() if scope == "rerank"}
