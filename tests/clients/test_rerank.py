"""Each client against a real service process and the real vLLM behind it."""

import time

import pytest

from tests.clients.contract import Place, RerankClient

QUERY = "How high does Mont Blanc rise above the sea?"
DOCUMENTS = [
    "The Rhine is a river.",
    "Mont Blanc does rise 4,806 metres above the sea.",
    "The Eiger is high above Grindelwald.",
    "Nothing of interest.",
]
BEST = DOCUMENTS[1]
UNICODE = ["Zürich 日本語 😀 ﬁn", "Ελληνικά: Όλυμπος", "मोंट ब्लांक", "cafe\u0301 \u2028 \u200b\x7f end"]


def test_best_comes_first_with_scores_as_probabilities(client: RerankClient, service: Place) -> None:
    ranked = client.rank(service, QUERY, DOCUMENTS, None)
    assert ranked[0].text == BEST
    assert sorted(found.text for found in ranked) == sorted(DOCUMENTS)
    scores = [found.score for found in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_only_so_many_come_back(client: RerankClient, service: Place) -> None:
    if not client.has_top_n:
        assert len(client.rank(service, QUERY, DOCUMENTS[:2], None)) == 2
        return
    assert [found.text for found in client.rank(service, QUERY, DOCUMENTS, 1)] == [BEST]
    assert len(client.rank(service, QUERY, DOCUMENTS, 2)) == 2


@pytest.mark.parametrize("text", UNICODE)
def test_any_text_goes_there_and_back(client: RerankClient, service: Place, text: str) -> None:
    ranked = client.rank(service, text, [*DOCUMENTS, text], None)
    assert ranked[0].text == text
    assert len(ranked) == len(DOCUMENTS) + 1


def test_without_documents_there_is_nothing_or_an_error_that_says_so(client: RerankClient, service: Place) -> None:
    try:
        assert client.rank(service, QUERY, [], None) == []
    except Exception as exc:  # noqa: BLE001 (each client has errors of its own)
        check(client, exc, "List should have at least 1 item")


def test_too_many_documents_are_refused(client: RerankClient, service: Place) -> None:
    documents = [f"Number {number}." for number in range(1001)]
    if client.bounds_itself:
        assert client.rank(service, QUERY, documents, None)
        return
    with pytest.raises(Exception) as caught:
        client.rank(service, QUERY, documents, None)
    check(client, caught.value, "1001 given, at most 1000 allowed")


def test_wrong_key_is_refused(client: RerankClient, service: Place) -> None:
    with pytest.raises(Exception) as caught:
        client.rank(Place(service.url, "wrong"), QUERY, DOCUMENTS, None)
    check(client, caught.value, "this API key is not known")


def test_overload_is_an_error_soon(client: RerankClient, busy_service: Place) -> None:
    """Also for those that ask again by themselves, when `Retry-After` says."""
    begun_s = time.monotonic()
    with pytest.raises(Exception) as caught:
        client.rank(busy_service, QUERY, DOCUMENTS, None)
    check(client, caught.value, "more work waits than can be done in time")
    assert time.monotonic() - begun_s < 60


def check(client: RerankClient, exc: Exception, message: str) -> None:
    """Whether the client's error has the service's words, where it reads them at all."""
    assert not isinstance(exc, AssertionError) or not client.reads_errors
    if client.reads_errors:
        assert message in f"{exc} {vars(exc)}"
