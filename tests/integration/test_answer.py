"""POST /answer on the real vLLM, FAISS, encoder and Redis."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.api.hostile import TEXTS
from tests.integration.conftest import Vllm, wait_until

QUESTION = "How high is Mont Blanc?"


def ask(client: httpx.Client, **body: object) -> httpx.Response:
    return client.post("/answer", json={"question": QUESTION, **body})


def test_an_answer_shows_where_it_came_from(client: httpx.Client) -> None:
    response = ask(client, cache=False)
    body = response.json()
    assert response.status_code == 200
    assert body["answer"]
    assert len(body["passages"]) == 5
    assert [passage["rank"] for passage in body["passages"]] == [1, 2, 3, 4, 5]
    scores = [passage["relevance_score"] for passage in body["passages"]]
    assert scores == sorted(scores, reverse=True)
    assert all(1 <= passage["retrieval_rank"] <= 20 for passage in body["passages"])
    assert body["usage"]["pairs_scored"] == 20
    assert {"encode", "search", "score", "generate", "total"} <= body["timings_ms"].keys()
    assert "score;dur=" in response.headers["Server-Timing"]
    assert body["degraded"] == []


def test_citations_hold_the_answers_words(client: httpx.Client) -> None:
    body = ask(client).json()
    texts = {passage["id"]: f"{passage['title']}. {passage['text']}" for passage in body["passages"]}
    for citation in body["citations"]:
        assert body["answer"][citation["start"] : citation["end"]] == citation["text"]
        for source in citation["sources"]:
            assert citation["text"].casefold() in texts[source["id"]].casefold()


def test_two_identical_requests_make_one_engine_call(client: httpx.Client, vllm: Vllm) -> None:
    first = ask(client).json()
    before = vllm.num_requests()
    second = ask(client).json()
    assert vllm.num_requests() - before <= 2  # canary scores only
    assert second["cached"]
    assert second["answer"] == first["answer"]
    assert second["passages"] == first["passages"]
    assert second["usage"]["total_tokens"] == 0


def test_fifty_concurrent_questions_all_succeed(client: httpx.Client) -> None:
    questions = [f"How high is mountain number {number}?" for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda q: client.post("/answer", json={"question": q, "top_n": 4}), questions))
    assert [response.status_code for response in responses] == [200] * 50


def test_fifty_concurrent_identical_questions_agree(client: httpx.Client) -> None:
    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(lambda _: ask(client), range(50)))
    assert [response.status_code for response in responses] == [200] * 50
    assert len({response.json()["answer"] for response in responses}) == 1


def test_filters_keep_only_what_they_name(client: httpx.Client) -> None:
    body = ask(client, filters={"family": ["river", "lake"]}, top_k=20).json()
    assert {passage["metadata"]["family"] for passage in body["passages"]} <= {"river", "lake"}
    assert len(body["passages"]) == 20


def test_search_is_what_an_answer_would_be_scored_from(client: httpx.Client) -> None:
    filters = {"or": [{"family": {"gte": "m", "lt": "n"}}, {"family": "volcano"}], "not": {"family": "museum"}}
    found = client.post("/search", json={"query": QUESTION, "filters": filters}).json()["results"]
    assert [passage["retrieval_rank"] for passage in found] == list(range(1, 21))
    families = {passage["metadata"]["family"] for passage in found}
    assert "mountain" in families
    assert families <= {"mountain", "moon", "volcano"}
    answered = ask(client, filters=filters, top_k=20, cache=False).json()["passages"]
    assert {passage["id"] for passage in answered} == {passage["id"] for passage in found}


def test_an_unknown_filter_field_is_named(client: httpx.Client) -> None:
    response = ask(client, filters={"colour": "red"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "filters.colour"


def test_no_matching_passage_is_an_abstention(client: httpx.Client) -> None:
    body = ask(client, filters={"family": "no such family"}).json()
    assert body["abstained"]
    assert body["passages"] == []


def num_whole_answers(vllm: Vllm) -> float:
    """Texts that vLLM has brought to their end; scores, of one token, end by their length."""
    wait_until(lambda: vllm.count("vllm:num_requests_running") == 0, within_s=10)
    return vllm.count("vllm:request_success_total", finished_reason="stop")


def test_hanging_up_ends_the_answer_on_vllm(client: httpx.Client, vllm: Vllm) -> None:
    """At the moment that the passages are kept, when the answer is begun."""
    before = num_whole_answers(vllm)
    for number in range(5):
        body = {"question": f"How high is mountain {number}?", "stream": True, "cache": False, "max_tokens": 512}
        with client.stream("POST", "/answer", json=body) as response:
            assert "event: rerank" in response.iter_lines()
    after = num_whole_answers(vllm)
    assert after - before < 5  # one may have been quicker than the news
    assert ask(client, cache=False).json()["answer"]
    assert num_whole_answers(vllm) == after + 1


def test_hostile_passages_leave_an_answer_its_form(client: httpx.Client) -> None:
    honest = {"id": "honest", "title": "Mont Blanc", "text": "Mont Blanc rises to 4,806 metres."}
    forms = set()
    for text in TEXTS:
        passages = [{"id": "it", "title": text[:200].strip() or "x", "text": text}, honest]
        body = ask(client, passages=passages, min_relevance=0, cache=False).json()
        forms.add((*body.keys(), *(key for passage in body["passages"] for key in passage)))
        texts = {passage["id"]: passage["text"] for passage in body["passages"]}
        assert texts == {"it": text, "honest": honest["text"]}
        for citation in body["citations"]:
            assert body["answer"][citation["start"] : citation["end"]] == citation["text"]
    assert len(forms) == 1
    assert len(TEXTS) >= 50


def test_a_stream_ends_in_the_same_answer(client: httpx.Client) -> None:
    whole = ask(client, cache=False).json()
    events = []
    with client.stream("POST", "/answer", json={"question": QUESTION, "stream": True, "cache": False}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("event: ") for line in response.iter_lines() if line.startswith("event: ")]
    assert events[:2] == ["search_results", "rerank"]
    assert events[-1] == "final"
    assert "answer.delta" in events
    assert whole["answer"]
