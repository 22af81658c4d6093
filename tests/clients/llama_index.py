"""LlamaIndex's."""

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.contract import Place, Ranked, RerankClient


def cohere_rerank(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    return _rank(CohereRerank(_all(top_n, documents), api_key=place.key, base_url=place.url), query, documents)


def jina_rerank(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    reranker = JinaRerank(_all(top_n, documents), api_key=place.key, base_url=f"{place.url}/v1")
    return _rank(reranker, query, documents)


def tei_rerank(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    reranker = TextEmbeddingInference(_all(top_n, documents), base_url=place.url, auth_token=f"Bearer {place.key}")
    return _rank(reranker, query, documents)


def _all(top_n: int | None, documents: Sequence[str]) -> int:
    return len(documents) if top_n is None else top_n


def _rank(reranker: Any, query: str, documents: Sequence[str]) -> list[Ranked]:
    nodes = [NodeWithScore(node=TextNode(text=document), score=0.5) for document in documents]
    found = reranker.postprocess_nodes(nodes, query_str=query)
    return [Ranked(node.node.text, node.score) for node in found]


CLIENTS = [
    RerankClient("llama-index CohereRerank", cohere_rerank),
    RerankClient("llama-index JinaRerank", jina_rerank),
    RerankClient("llama-index TextEmbeddingInference", tei_rerank, reads_errors=False),
]
