"""A client of the rankrag service, which needs httpx and nothing else.

>>> from rankrag import Client
>>> with Client("http://localhost:8080") as client:
...     print(client.answer("How high is Mont Blanc?").text)
"""

from rankrag.client import AsyncClient, Client
from rankrag.errors import (
    AuthenticationError,
    BusyError,
    DeadlineError,
    InvalidRequestError,
    PermissionDeniedError,
    RankRAGError,
    ServerError,
    UnavailableError,
    UnreachableError,
)
from rankrag.events import Cited, Delta, Event, Final, Found, Reranked
from rankrag.options import AnswerOptions, DocumentLike, Filters, GivenPassage, Message, RerankOptions, SearchOptions
from rankrag.types import Answer, Citation, FoundPassage, Passage, RankedDocument, Ranking, SearchResults, Usage

__all__ = [
    "Answer",
    "AnswerOptions",
    "AsyncClient",
    "AuthenticationError",
    "BusyError",
    "Citation",
    "Cited",
    "Client",
    "DeadlineError",
    "Delta",
    "DocumentLike",
    "Event",
    "Filters",
    "Final",
    "Found",
    "FoundPassage",
    "GivenPassage",
    "InvalidRequestError",
    "Message",
    "Passage",
    "PermissionDeniedError",
    "RankRAGError",
    "RankedDocument",
    "Ranking",
    "RerankOptions",
    "Reranked",
    "SearchOptions",
    "SearchResults",
    "ServerError",
    "UnavailableError",
    "UnreachableError",
    "Usage",
]
