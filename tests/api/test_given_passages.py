"""POST /answer with the caller's own passages."""

from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.types import Passage
from tests.fakes import FakeServices, client_of

QUESTION = "mont blanc rises"
GIVEN: list[dict[str, Any]] = [
    {"text": "The Rhine is a river."},
    {"id": "mb", "title": "Mont Blanc", "text": "Mont Blanc rises to 4,806 metres.", "metadata": {"kind": "mountain"}},
]


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/answer", json={"question": QUESTION, "passages": GIVEN, **body})


async def test_given_passages_are_scored_kept_and_cited_like_retrieved_ones(client: httpx.AsyncClient) -> None:
    body = (await ask(client)).json()
    assert [(p["id"], p["rank"], p["retrieval_rank"], p["retrieval_score"]) for p in body["passages"]] == [
        ("mb", 1, 2, None), ("0", 2, 1, None),
    ]  # fmt: skip
    assert body["passages"][0]["metadata"] == {"kind": "mountain"}
    assert body["citations"] == [{"start": 0, "end": 12, "text": "4,806 metres", "sources": [{"id": "mb"}]}]
    assert (body["answer"], body["degraded"], body["usage"]["pairs_scored"]) == ("4,806 metres", [], 2)


async def test_nothing_is_retrieved_beside_them(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = (await ask(client)).json()
    assert (fakes.encoder.calls, fakes.index.calls) == ([], [])
    assert {"encode", "search"}.isdisjoint(body["timings_ms"])
    assert [num_pairs for num_pairs, *_ in fakes.scorer.admitted] == [2]


async def test_no_index_is_needed(fakes: FakeServices) -> None:
    fakes.has_index = False
    async with client_of(create_app(Settings(), fakes.open)) as client:
        assert (await ask(client)).json()["answer"] == "4,806 metres"


async def test_stream_shows_them_in_the_order_given(client: httpx.AsyncClient) -> None:
    events = (await ask(client, stream=True)).text
    assert '"type": "search_results", "passages": [{"id": "0"' in events
    assert '"type": "final"' in events


async def test_same_passages_are_answered_from_the_cache_and_others_are_not(client: httpx.AsyncClient) -> None:
    await ask(client)
    assert (await ask(client)).json()["cached"] is True
    assert (await ask(client, passages=GIVEN[1:])).json()["cached"] is False


async def test_top_k_holds_for_them(client: httpx.AsyncClient, fakes: FakeServices) -> None:
    body = (await ask(client, top_k=1)).json()
    assert [p["id"] for p in body["passages"]] == ["mb"]
    expected = Passage("mb", "Mont Blanc rises to 4,806 metres.", "Mont Blanc", {"kind": "mountain"})
    assert [passages for _, passages, *_ in fakes.generator.calls] == [(expected,)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filters": {"kind": "mountain"}}, "filters"),
        ({"filters": {}}, "filters"),
        ({"top_n": 5}, "top_n"),
        ({"passages": []}, "passages"),
        ({"passages": [{"title": "no text"}]}, "passages.0.text"),
        ({"passages": [{"text": " "}]}, "passages.0.text"),
        ({"passages": [{"text": "t", "url": "u"}]}, "passages.0.url"),
        ({"passages": [{"text": "t", "metadata": {"a": []}}]}, "passages.0.metadata"),
        ({"passages": [{"text": "t", "id": ""}]}, "passages.0.id"),
        ({"passages": [{"text": "t", "id": "a"}, {"text": "u", "id": "a"}]}, "passages.1.id"),
        ({"passages": [{"text": "t"}, {"text": "u", "id": "0"}]}, "passages.1.id"),
    ],
)
async def test_wrong_passages_are_refused_by_the_name_of_the_field(
    client: httpx.AsyncClient, fakes: FakeServices, body: dict[str, Any], field: str
) -> None:
    response = await ask(client, **body)
    assert response.status_code == 422
    assert response.json()["error"]["param"].startswith(field)
    assert fakes.scorer.calls == []
