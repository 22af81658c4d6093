"""OpenAI's SDK against /v1/chat/completions, in the one environment that has it."""

from collections.abc import Iterator

import openai
import pytest

from tests.clients.contract import Place

QUESTION = "How high is Mont Blanc?"
MESSAGES = [{"role": "user", "content": QUESTION}]
ANSWER = "4,806 metres"
OTHER_QUESTION, OTHER_ANSWER = "How long is the Danube?", "2,850 kilometres"


def connected(place: Place) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{place.url}/v1", api_key=place.key, max_retries=0)


@pytest.fixture
def sdk(service: Place) -> Iterator[openai.OpenAI]:
    with connected(service) as client:
        yield client


def test_a_completion_is_whole(sdk: openai.OpenAI) -> None:
    made = sdk.chat.completions.create(model="any", messages=MESSAGES)
    choice = made.choices[0]
    assert choice.message.content == ANSWER
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0
    for annotation in choice.message.annotations:
        citation = annotation.url_citation
        assert citation.url.startswith("urn:rankrag:passage:")
        assert 0 <= citation.start_index < citation.end_index <= len(ANSWER)


def test_a_completion_comes_in_chunks(sdk: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": OTHER_QUESTION}]  # not yet asked: what is cached costs nothing
    options = {"include_usage": True}
    chunks = list(sdk.chat.completions.create(model="any", messages=messages, stream=True, stream_options=options))
    said = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in said) == OTHER_ANSWER
    assert said[0].delta.role == "assistant"
    assert said[-1].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 0


def test_the_last_of_a_conversation_is_asked(sdk: openai.OpenAI) -> None:
    conversation = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "assistant", "content": ANSWER},
                    {"role": "user", "content": OTHER_QUESTION}]  # fmt: skip
    made = sdk.chat.completions.create(model="any", messages=conversation, extra_body={"rag": {"top_k": 1}})
    assert made.choices[0].message.content == OTHER_ANSWER
    assert len(made.rag["passages"]) == 1


def test_any_text_may_be_asked(sdk: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "日本語 😀 Ελληνικά: 誰が?"}]
    made = sdk.chat.completions.create(model="any", messages=messages)
    assert made.choices[0].message.content
    assert made.rag["passages"]


def test_nothing_asked_is_an_error_that_says_so(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="messages"):
        sdk.chat.completions.create(model="any", messages=[])


def test_what_has_no_meaning_here_is_refused(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="top_n"):
        sdk.chat.completions.create(model="any", messages=MESSAGES, extra_body={"rag": {"top_n": 100_000}})


def test_a_wrong_key_is_refused(service: Place) -> None:
    with connected(Place(service.url, "wrong")) as client, pytest.raises(openai.AuthenticationError, match="not known"):
        client.chat.completions.create(model="any", messages=MESSAGES)


def test_overload_is_an_error_soon(busy_service: Place) -> None:
    with connected(busy_service) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="any", messages=MESSAGES)
    assert int(caught.value.response.headers["Retry-After"]) >= 1


def test_the_model_is_listed(sdk: openai.OpenAI) -> None:
    assert len(list(sdk.models.list())) == 1
