"""What can be done with a response, as links of the OpenAPI document: tools and tests follow them."""

from collections.abc import Mapping
from typing import Any

ASKED, QUERIED = "$request.body#/question", "$request.body#/query"
FOUND, KEPT, LISTED = "$response.body#/results/0/text", "$response.body#/passages/0/text", "$response.body#/data/0/id"


def _link(operation_id: str, description: str, **body: Any) -> Mapping[str, Any]:
    return {"operationId": operation_id, "description": description, "requestBody": body}


AFTER_SEARCH: Mapping[str, Any] = {
    "rerankFound": _link("rerank", "Score what was found.", query=QUERIED, documents=[FOUND]),
    "answerFromFound": _link("answer", "Answer from what was found.", question=QUERIED, passages=[{"text": FOUND}]),
    "answerQuery": _link("answer", "Answer what was looked for.", question=QUERIED),
}
AFTER_ANSWER: Mapping[str, Any] = {
    "rerankKept": _link("rerank_v2", "Score what the answer was made from.", query=ASKED, documents=[KEPT]),
    "searchQuestion": _link("search", "See what was found.", query=ASKED),
    "streamAgain": _link("answer", "Ask again, as a stream.", question=ASKED, stream=True),
}
AFTER_MODELS: Mapping[str, Any] = {
    "chat": _link(
        "create_chat_completion", "Ask this model.",
        model=LISTED, messages=[{"role": "user", "content": "How high is Mont Blanc?"}],
    ),
}  # fmt: skip
