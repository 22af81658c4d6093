"""LangChain's."""

from collections.abc import Sequence

from langchain_cohere import CohereRerank
from langchain_core.documents import Document

from tests.clients.contract import Place, Ranked, RerankClient


def langchain_cohere(place: Place, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    reranker = CohereRerank(model="rerank-v3.5", cohere_api_key=place.key, base_url=place.url, top_n=top_n)
    given = [Document(page_content=document) for document in documents]
    found = reranker.compress_documents(given, query)
    return [Ranked(document.page_content, document.metadata["relevance_score"]) for document in found]


CLIENTS = [RerankClient("langchain CohereRerank", langchain_cohere)]
