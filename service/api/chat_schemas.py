"""What OpenAI's chat clients send and read, as far as it has a meaning here."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from service.api.filters import Filters
from service.api.schemas import FILTERS, CitationBody, PassageBody
from service.types import ContextOrder, Degradation, Turn

FinishReason: TypeAlias = Literal["stop", "length"]


def _only(*harmless: Any) -> AfterValidator:
    """Null, or a value that asks for nothing else than what happens anyway."""

    def check(given: Any) -> Any:
        if given is not None and given not in harmless:
            raise ValueError("has no effect here, and ignoring it would mislead: leave it out")
        return given

    return AfterValidator(check)


class TextPart(BaseModel):
    """One part of a message; other kinds can't be read here."""

    type: Literal["text"]
    text: str


def _joined(content: object) -> object:
    """Parts of a text as one; nothing said is an empty text."""
    if isinstance(content, list):
        return "\n".join(TextPart.model_validate(part).text for part in content)
    return "" if content is None else content


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart] | None)
    ] = ""  # fmt: skip


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class RagOptions(BaseModel):
    """What /answer has by the same name. Clients of OpenAI's SDK send it in `extra_body`."""

    model_config = ConfigDict(extra="forbid")

    top_n: int | None = Field(None, ge=1)
    top_k: int | None = Field(None, ge=1)
    filters: Filters | None = Field(None, description=FILTERS)
    min_relevance: float | None = Field(None, ge=0, le=1)
    context_order: ContextOrder = "rank"
    rewrite: bool = False


class ChatRequest(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"model": "rankrag", "messages": [{"role": "user", "content": "How high is Mont Blanc?"}]},
                {
                    "model": "rankrag",
                    "messages": [
                        {"role": "user", "content": "How high is Mont Blanc?"},
                        {"role": "assistant", "content": "4,806 metres"},
                        {"role": "user", "content": "Who climbed it first?"},
                    ],
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "rag": {"rewrite": True, "filters": {"family": "mountain"}},
                },
            ]
        },
    )

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = Field(None, description="Any name will do; one model is served.")
    stream: bool | None = Field(False, description="Send the answer in pieces, with `data: [DONE]` as the last event.")
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same; goes before it.")
    rag: RagOptions = Field(default_factory=RagOptions)

    n: Annotated[Any, _only(1)] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    stop: Annotated[Any, _only("", [])] = None
    logprobs: Annotated[Any, _only(False)] = None
    top_logprobs: Annotated[Any, _only(0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only([], ["text"])] = None
    audio: Annotated[Any, _only()] = None
    prediction: Annotated[Any, _only()] = None
    web_search_options: Annotated[Any, _only()] = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def conversation(self) -> list[Turn]:
        """What was said; the model has a system prompt of its own."""
        return [
            Turn(message.role, message.content)
            for message in self.messages
            if message.role == "user" or message.role == "assistant"
        ]


class UrlCitation(BaseModel):
    start_index: int = Field(description="First character of the cited words in `content`.")
    end_index: int = Field(description="One past the last.")
    title: str
    url: str = Field(description="The passage's `url` in its metadata, or a URN of its id.")


class Annotation(BaseModel):
    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class ChatAnswer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class ChatChoice(BaseModel):
    index: Literal[0] = 0
    message: ChatAnswer
    logprobs: None = None
    finish_reason: FinishReason


class ChatUsage(BaseModel):
    """Tokens of the whole request: those of scoring, too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Sources(BaseModel):
    """What /answer says beside the answer."""

    citations: list[CitationBody]
    passages: list[PassageBody]
    abstained: bool
    degraded: list[Degradation]
    rewritten_question: str | None
    timings_ms: dict[str, float]


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice] = Field(min_length=1, max_length=1)
    usage: ChatUsage
    citations: list[CitationBody] = Field(description="An extension: as /answer has them.")
    rag: Sources = Field(description="An extension: how the answer came about.")
