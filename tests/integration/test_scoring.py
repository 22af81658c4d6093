"""One scoring engine for all requests, on the real vLLM: shared work, hang-ups, two replicas, overload."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Settings, Start, Vllm, started_vllm, wait_until

QUESTION = "How high is Mount Karvel?"


def documents(count: int, *, start: int = 0) -> list[str]:
    return [f"Mount Karvel number {number} rises to {4_000 + number} metres." for number in range(start, start + count)]


def gauges(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", timeout=30).text
    names = ("queued_pairs", "queued_tokens", "outstanding_tokens", "scoring_requests", "scoring_calls")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.removeprefix("rankrag_") in names
    }


def is_at_rest(url: str) -> bool:
    found = gauges(url)
    assert len(found) == 5
    return not any(found.values())


def body(count: int, *, start: int = 0, question: str = QUESTION, **more: object) -> dict[str, object]:
    return {"query": question, "documents": documents(count, start=start), "cache": False, **more}


async def test_equal_requests_at_the_same_time_are_computed_once(service: str, vllm: Vllm) -> None:
    async with httpx.AsyncClient(base_url=service, timeout=60) as http:
        before = vllm.num_requests()
        request = body(30, question="Which number is the highest?")
        responses = await asyncio.gather(*(http.post("/rerank", json=request) for _ in range(20)))
    scores = {tuple(result["relevance_score"] for result in response.json()["results"]) for response in responses}
    assert len(scores) == 1
    assert vllm.num_requests() - before < 60  # 30 and some canaries; a late request may begin a second round


@pytest.mark.timeout(420)
async def test_a_thousand_clients_that_hang_up_leave_nothing_behind(service: str) -> None:
    rng = random.Random(11)
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=service, timeout=120, limits=limits) as http:
        alone = (await http.post("/rerank", json=body(8, start=5_000))).json()["results"]

        async def hang_up(number: int) -> None:
            await asyncio.sleep(rng.random() * 8)
            request = body(rng.randint(1, 30), start=10 * number)
            with suppress(httpx.TimeoutException):
                await http.post("/rerank", json=request, timeout=0.005 + rng.random() * 0.4)

        async def stay() -> list[dict[str, float]]:
            await asyncio.sleep(rng.random() * 8)
            response = await http.post("/rerank", json=body(8, start=5_000, deadline_ms=60_000))
            assert response.status_code == 200, response.text
            return list(response.json()["results"])

        async with asyncio.TaskGroup() as group:
            staying = [group.create_task(stay()) for _ in range(10)]
            for number in range(1_000):
                group.create_task(hang_up(number))
    stayed = [task.result() for task in staying]
    for results in stayed:
        found = {result["index"]: result["relevance_score"] for result in results}
        for result in alone:
            assert found[result["index"]] == pytest.approx(result["relevance_score"], abs=0.01)
    wait_until(lambda: is_at_rest(service), within_s=15)


async def test_an_urgent_request_is_not_held_up_by_a_bulk_one(service: str) -> None:
    async with httpx.AsyncClient(base_url=service, timeout=120) as http:
        bulk = asyncio.create_task(
            http.post("/rerank", json=body(400, start=20_000, priority="bulk", deadline_ms=60_000))
        )
        await asyncio.sleep(0.5)
        response = await http.post("/rerank", json=body(5, start=30_000))
        assert response.status_code == 200, response.text
        assert not bulk.done()
        assert (await bulk).status_code == 200


async def test_time_that_is_over_gives_a_504_or_the_scored_part(service: str) -> None:
    async with httpx.AsyncClient(base_url=service, timeout=120) as http:
        refused = await http.post("/rerank", json=body(300, start=40_000, deadline_ms=700))
        partial = await http.post("/rerank", json=body(300, start=50_000, deadline_ms=700, allow_partial=True))
    assert refused.status_code in (429, 504)  # refused at once where the rate is known, else at the deadline
    assert partial.status_code in (200, 429)
    wait_until(lambda: is_at_rest(service), within_s=15)


@pytest.fixture
def second_vllm(logs: Path) -> Iterator[Vllm]:
    with started_vllm(logs / "vllm-2.log") as engine:
        yield engine


@pytest.mark.timeout(600)
async def test_killing_one_of_two_replicas_under_load_loses_nothing(
    start_service: Start, settings: Settings, vllm: Vllm, second_vllm: Vllm
) -> None:
    url = start_service({**settings, "RANKRAG_VLLM__URL": f"{vllm.url},{second_vllm.url}"})
    wait_until(lambda: num_ready(url) == 2, within_s=30)
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        expected = (await http.post("/rerank", json=body(40, start=60_000))).json()["results"]
        responses: list[tuple[int, httpx.Response]] = []
        ends_s = time.monotonic() + 8

        async def load(number: int) -> None:
            while time.monotonic() < ends_s:
                first = number % 4 * 10
                request = body(10, start=60_000 + first, deadline_ms=30_000)
                responses.append((first, await http.post("/rerank", json=request)))

        clients = [asyncio.create_task(load(number)) for number in range(8)]
        await asyncio.sleep(2)
        await asyncio.to_thread(second_vllm.kill)
        await asyncio.gather(*clients)
    assert len(responses) > 8
    assert [response.status_code for _, response in responses] == [200] * len(responses)
    known = {result["index"]: result["relevance_score"] for result in expected}
    for first, response in responses:
        results = response.json()["results"]
        assert len(results) == 10
        for result in results:
            assert result["relevance_score"] == pytest.approx(known[first + result["index"]], abs=0.01)
    assert num_ready(url) == 1
    await asyncio.to_thread(second_vllm.restart)
    wait_until(lambda: num_ready(url) == 2, within_s=10)


def num_ready(url: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "rankrag_replicas" and sample.labels["state"] == "ready"
    )
