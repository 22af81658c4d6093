"""Cohere's SDK and what works beside its newest version."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import cohere
import litellm
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker
from rerankers import Reranker

from tests.clients.contract import Place, Ranked, RerankClient, by_index


def cohere_v2(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    client = cohere.ClientV2(place.key, base_url=place.url)
    response = client.rerank(model="rerank-v3.5", query=query, documents=documents, **_given(top_n=top_n))
    return by_index(documents, [(found.index, found.relevance_score) for found in response.results])


def cohere_v1(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    """With the documents as objects, and given back."""
    client = cohere.Client(place.key, base_url=place.url)
    response = client.rerank(
        model="rerank-v3.5", query=query, documents=[{"text": document} for document in documents],
        rank_fields=["text"], return_documents=True, **_given(top_n=top_n),
    )  # fmt: skip
    return [Ranked(found.document.text, found.relevance_score) for found in response.results]


def haystack_cohere(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    ranker = CohereRanker(api_key=Secret.from_token(place.key), api_base_url=place.url)
    return _haystack(ranker, query, documents, top_n)


def haystack_jina(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    ranker = JinaRanker(api_key=Secret.from_token(place.key), base_url=f"{place.url}/v1/rerank")
    return _haystack(ranker, query, documents, top_n)


def haystack_vllm(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    ranker = VLLMRanker(model="any", api_key=Secret.from_token(place.key), api_base_url=f"{place.url}/v1")
    return _haystack(ranker, query, documents, top_n)


def _haystack(ranker: Any, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    given = [Document(content=document) for document in documents]
    found = ranker.run(query=query, documents=given, **_given(top_k=top_n))["documents"]
    return [Ranked(document.content, document.score) for document in found]


def litellm_as(
    model: str, path: str, place: Place, query: str, documents: Sequence[str], top_n: int | None
) -> list[Ranked]:
    response = litellm.rerank(
        model=model, query=query, documents=list(documents), api_base=f"{place.url}{path}", api_key=place.key,
        **_given(top_n=top_n),
    )  # fmt: skip
    return by_index(documents, [(found["index"], found["relevance_score"]) for found in response.results])


def rerankers_as(
    provider: str, path: str, place: Place, query: str, documents: Sequence[str], top_n: int | None
) -> list[Ranked]:
    assert top_n is None
    ranker = Reranker("any", model_type=provider, api_key=place.key, url=f"{place.url}{path}", verbose=0)
    found = ranker.rank(query=query, docs=list(documents))
    return [Ranked(result.document.text, result.score) for result in found.results]


def _given(**options: int | None) -> dict[str, int]:
    return {name: value for name, value in options.items() if value is not None}


litellm.suppress_debug_info = True

CLIENTS = [
    RerankClient("cohere.ClientV2", cohere_v2),
    RerankClient("cohere.Client", cohere_v1),
    RerankClient("haystack CohereRanker", haystack_cohere, bounds_itself=True),
    RerankClient("haystack JinaRanker", haystack_jina),
    RerankClient("haystack VLLMRanker", haystack_vllm),
    RerankClient("litellm cohere", partial(litellm_as, "cohere/any", "")),
    RerankClient("litellm jina_ai", partial(litellm_as, "jina_ai/any", "/v1/rerank")),
    RerankClient("litellm hosted_vllm", partial(litellm_as, "hosted_vllm/any", "")),
    RerankClient("litellm infinity", partial(litellm_as, "infinity/any", "/infinity")),
    RerankClient("litellm huggingface", partial(litellm_as, "huggingface/any", "")),
    RerankClient("rerankers cohere", partial(rerankers_as, "cohere", "/v1/rerank"), False, False),
    RerankClient("rerankers jina", partial(rerankers_as, "jina", "/v1/rerank"), False, False),
    RerankClient("rerankers tei", partial(rerankers_as, "text-embeddings-inference", "/rerank"), False, False),
]
