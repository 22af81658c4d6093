"""Whatever a passage says, and the model after it, the response has its form, and the text comes back unchanged."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from service.core.prompts import collapse
from tests.api.hostile import TEXTS
from tests.fakes import FakeServices, rankrag_prompts

QUESTION = "How high is Mont Blanc?"
HONEST = "Mont Blanc rises to 4,806 metres."

hostile = pytest.mark.parametrize("text", TEXTS, ids=lambda text: f"{TEXTS.index(text)}-{text[:24]!a}")
pytestmark = pytest.mark.threat("T14")


def test_there_are_enough_of_them() -> None:
    assert len(set(TEXTS)) >= 50


def form(value: Any) -> Any:
    """The names in it, without what stands there."""
    if isinstance(value, Mapping):
        return {key: form(one) for key, one in value.items()}
    return [form(one) for one in value[:1]] if isinstance(value, list) else type(value).__name__


def passages(text: str) -> list[dict[str, str]]:
    return [{"id": "it", "title": text[:200].strip() or "x", "text": text}, {"id": "honest", "text": HONEST}]


async def ask(client: httpx.AsyncClient, fakes: FakeServices, text: str, **more: object) -> httpx.Response:
    """The model repeats the passage."""
    fakes.generator.texts = (text[: len(text) // 2], text[len(text) // 2 :])
    body = {"question": QUESTION, "passages": passages(text), "top_k": 2, "min_relevance": 0, "cache": False, **more}
    return await client.post("/answer", json=body)


@hostile
async def test_an_answer_has_its_form(client: httpx.AsyncClient, fakes: FakeServices, text: str) -> None:
    plain = form((await ask(client, fakes, HONEST)).json())
    response = await ask(client, fakes, text)
    assert response.status_code == 200
    body = response.json()
    assert form({**body, "citations": []}) == {**plain, "citations": []}
    assert {passage["id"]: passage["text"] for passage in body["passages"]}["it"] == text
    for citation in body["citations"]:
        assert body["answer"][citation["start"] : citation["end"]] == citation["text"]
        assert {source["id"] for source in citation["sources"]} <= {"it", "honest"}


@hostile
async def test_a_stream_has_its_events(client: httpx.AsyncClient, fakes: FakeServices, text: str) -> None:
    response = await ask(client, fakes, text, stream=True)
    whole = (await ask(client, fakes, text)).json()
    events = [json.loads(line[5:]) for line in response.text.split("\r\n") if line.startswith("data:")]
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["search_results", "rerank"]
    assert kinds[-1] == "final"
    assert set(kinds[2:-1]) <= {"answer.delta", "citation"}
    names = [line[7:] for line in response.text.split("\r\n") if line.startswith("event: ")]
    assert names == kinds
    assert [line for line in response.text.split("\r\n") if line.startswith(("id: 99", "retry"))] == []
    assert events[-1]["answer"] == whole["answer"]


@hostile
async def test_a_chat_completion_has_its_form(client: httpx.AsyncClient, fakes: FakeServices, text: str) -> None:
    async def completed(said: str) -> Any:
        fakes.generator.texts = (said,)
        body = {"model": "models/fake", "messages": [{"role": "user", "content": QUESTION}]}
        return await client.post("/v1/chat/completions", json=body, headers={"Cache-Control": "no-store"})

    plain, response = (await completed("It is high")).json(), await completed(text)
    assert response.status_code == 200
    message = response.json()["choices"][0]["message"]
    assert message.keys() == plain["choices"][0]["message"].keys()
    assert response.json().keys() == plain.keys()


@hostile
async def test_a_ranking_has_its_form(client: httpx.AsyncClient, text: str) -> None:
    body = {"query": text[:1000], "documents": [text, HONEST], "return_documents": True}
    response = await client.post("/rerank", json=body)
    assert response.status_code == 200
    results = response.json()["results"]
    assert sorted(result["index"] for result in results) == [0, 1]
    assert {result["index"]: result["document"]["text"] for result in results}[0] == text


@hostile
def test_it_starts_no_turn_of_the_prompt(text: str) -> None:
    """A prompt's parts are set apart by empty lines, and no passage or question has one left."""
    prompts = rankrag_prompts()
    for prompt in (prompts.score_prompt(text, text), prompts.answer_prompt(text, [text, HONEST])):
        plain = len("".join((*prompt.context, prompt.turn)).split("\n\n"))
        assert plain == prompt.text.removeprefix(prompt.system).count("\n\n") + 1
        assert "\n" not in collapse(text)
        assert prompt.turn.count("\n\n") == prompts.score_prompt("", "").turn.count("\n\n")
