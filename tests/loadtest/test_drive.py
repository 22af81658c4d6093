"""The load generator against a real server that is slow on purpose."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from loadtest.drive import Call, Reply, closed_loop, judge, open_loop
from tests.listening import HOST, listening

ANSWER = b'{"data":[{"score":0.5}]}'
SLOW_S = 0.3


def call(path: str = "/ok") -> Call:
    return Call(path, {}, 1, "data", "score")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One response a connection: slow, refused, hung up, or at once, as the path says."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    await reader.readexactly(2)  # the body, {}
    path = head.split()[1]
    if path == "/slow":
        await asyncio.sleep(SLOW_S)
    if path != "/hangup":
        status = b"429 Too Many Requests" if path == "/refused" else b"200 OK"
        length = str(len(ANSWER)).encode()
        writer.write(
            b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: " + length + b"\r\n\r\n" + ANSWER
        )


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with listening(answer) as port:
        yield f"http://{HOST}:{port}"


@pytest.mark.parametrize(
    ("status", "reply"), [(429, Reply.REFUSED), (504, Reply.TIMED_OUT), (503, Reply.ERROR), (422, Reply.ERROR)]
)
def test_what_a_failure_is_worth(status: int, reply: Reply) -> None:
    assert judge(call(), status, {}) is reply


def test_an_answer_with_scores_left_out_is_partial() -> None:
    two = Call("/rerank", {}, 2, "results", "relevance_score")
    scored, unscored = {"index": 0, "relevance_score": 0.0}, {"index": 1, "relevance_score": None}
    assert judge(two, 200, {"results": [scored, scored]}) is Reply.OK
    assert judge(two, 200, {"results": [scored]}) is Reply.PARTIAL
    assert judge(two, 200, {"results": [scored, unscored]}) is Reply.PARTIAL


async def test_an_open_loop_waits_for_nobody(url: str) -> None:
    """Ten slow calls one after the other would take ten times as long."""
    moments = [0.02 * number for number in range(10)]
    drive = await open_loop(url, [call("/slow")] * 10, moments, timeout_s=10)
    assert [outcome.scheduled_s for outcome in drive.outcomes] == moments
    assert all(outcome.is_ok for outcome in drive.outcomes)
    assert drive.outcomes[-1].sent_s < drive.outcomes[0].done_s
    assert drive.seconds < 10 * SLOW_S


async def test_latency_counts_from_the_moment_that_a_call_was_due(url: str) -> None:
    drive = await open_loop(url, [call("/slow")], [0.05], timeout_s=10)
    (outcome,) = drive.outcomes
    assert outcome.sent_s >= outcome.scheduled_s == 0.05
    assert outcome.latency_s == outcome.done_s - 0.05
    assert outcome.latency_s >= SLOW_S * 0.99


async def test_an_open_loop_ends_early_and_waits_for_what_it_sent(url: str) -> None:
    end = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, end.set)
    drive = await open_loop(url, [call("/slow")] * 3, [0.0, 0.01, 0.2], timeout_s=10, end=end)
    assert [outcome.reply for outcome in drive.outcomes] == [Reply.OK, Reply.OK]


async def test_a_closed_loop_has_so_many_calls_at_once(url: str) -> None:
    drive = await closed_loop(url, [call("/slow")] * 4, concurrency=2, timeout_s=10)
    assert (drive.num_pairs, drive.num_failed) == (4, 0)
    by_start = sorted(drive.outcomes, key=lambda outcome: outcome.sent_s)
    assert all(later.sent_s >= SLOW_S * 0.99 for later in by_start[2:])
    assert all(before.sent_s <= after.sent_s for before, after in pairwise(by_start))
    assert drive.seconds < 4 * SLOW_S


async def test_failures_are_outcomes(url: str) -> None:
    calls = [call("/ok"), call("/refused"), call("/hangup")]
    drive = await closed_loop(url, calls, concurrency=1, timeout_s=10)
    assert [outcome.reply for outcome in drive.outcomes] == [Reply.OK, Reply.REFUSED, Reply.UNANSWERED]
    assert drive.num_failed == 2


async def test_nobody_there_is_unanswered() -> None:
    drive = await closed_loop("http://127.0.0.1:1", [call()], concurrency=1, timeout_s=10)
    assert drive.outcomes[0].reply is Reply.UNANSWERED
