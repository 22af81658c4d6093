"""When a request is made again."""

import httpx
import pytest

from rankrag.transport import AsyncRetryTransport, Retries, RetryTransport


class Service:
    """Gives `responses`, one after the other, and the last one for ever."""

    def __init__(self, *responses: tuple[int, str | None]) -> None:
        self._responses = responses
        self.num_calls = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.read() == b"body"
        status, retry_after = self._responses[min(self.num_calls, len(self._responses) - 1)]
        self.num_calls += 1
        return httpx.Response(status, headers={"Retry-After": retry_after} if retry_after else {})


CASES: list[tuple[list[tuple[int, str | None]], int, list[float]]] = [
    ([(200, None)], 200, []),
    ([(429, "3"), (200, None)], 200, [3.0]),
    ([(503, "1"), (429, "2"), (200, None)], 200, [1.0, 2.0]),
    ([(429, "1")], 429, [1.0, 1.0]),
    ([(429, "10"), (200, None)], 200, [10.0]),
    ([(429, "11"), (200, None)], 429, []),
    ([(503, None), (200, None)], 503, []),
    ([(503, "soon"), (200, None)], 503, []),
    ([(500, "1"), (200, None)], 500, []),
    ([(502, "1"), (200, None)], 502, []),
    ([(504, "1"), (200, None)], 504, []),
    ([(422, "1"), (200, None)], 422, []),
]


@pytest.mark.parametrize(("responses", "status", "waits_s"), CASES)
def test_asks_again_when_told_to(responses: list[tuple[int, str | None]], status: int, waits_s: list[float]) -> None:
    service, waited_s = Service(*responses), list[float]()
    transport = RetryTransport(httpx.MockTransport(service), Retries(), waited_s.append)
    with httpx.Client(transport=transport) as http:
        assert http.post("http://service", content=b"body").status_code == status
    assert (waited_s, service.num_calls) == (waits_s, len(waits_s) + 1)


@pytest.mark.parametrize(("responses", "status", "waits_s"), CASES)
async def test_asks_again_in_an_event_loop(
    responses: list[tuple[int, str | None]], status: int, waits_s: list[float]
) -> None:
    service, waited_s = Service(*responses), list[float]()

    async def sleep(seconds: float) -> None:
        waited_s.append(seconds)

    transport = AsyncRetryTransport(httpx.MockTransport(service), Retries(), sleep)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.post("http://service", content=b"body")).status_code == status
    assert (waited_s, service.num_calls) == (waits_s, len(waits_s) + 1)


def test_may_be_told_not_to() -> None:
    service = Service((429, "1"))
    transport = RetryTransport(httpx.MockTransport(service), Retries(max_retries=0), lambda _: None)
    with httpx.Client(transport=transport) as http:
        assert http.post("http://service", content=b"body").status_code == 429
    assert service.num_calls == 1
