"""The shapes of answers, for the API's description; tests hold what is sent against it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Reply):
    error: ErrorDetail


class ScoredToken(Reply):
    token: str
    logprob: float
    bytes: list[int] | None


class ScoredChoice(ScoredToken):
    top_logprobs: list[ScoredToken]


class ChatLogprobs(Reply):
    content: list[ScoredChoice] | None
    refusal: None


class CalledFunction(Reply):
    name: str
    arguments: str


class Call(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Reply):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class ChatChoice(Reply):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class PromptDetails(Reply):
    cached_tokens: int


class TokenUsage(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None


class ChatCompletion(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class PlainLogprobs(Reply):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    logprobs: PlainLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Reply):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class Embedding(Reply):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Reply):
    prompt_tokens: int
    total_tokens: int


class Embeddings(Reply):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Reply):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["model", "program"]
    version: str


class Models(Reply):
    object: Literal["list"]
    data: list[Model]


class ProgramFacts(Reply):
    name: str
    version: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


class Programs(Reply):
    object: Literal["list"]
    data: list[ProgramFacts]


class ProgramReply(Reply):
    """What a program answered.

    `probabilities` are those of each option, by the outputs that were decided among options.
    """

    program: str
    version: str
    outputs: dict[str, Any]
    probabilities: dict[str, dict[str, float]]
    answered_by: list[str]
    cached: bool
    usage: TokenUsage


class BatchItem(Reply):
    """One answer of a batch, or what was wrong with its inputs."""

    index: int
    answer: ProgramReply | None = None
    error: ErrorDetail | None = None


class BatchReply(Reply):
    program: str
    version: str
    results: list[BatchItem]


STATUSES = (400, 401, 403, 404, 408, 413, 415, 429, 500, 502, 503, 504)


def described(answer: type[Reply], body: type[BaseModel] | None, streams: bool = False) -> Any:
    """What the API's description says of a route.

    Args:
        answer: the body of its 200.
        body: of its request, which the route reads by itself.
        streams: whether it can answer with server-sent events.
    """
    good: dict[str, Any] = {"model": answer}
    if streams:
        good["content"] = {"text/event-stream": {"schema": {"type": "object"}}}
    said: dict[str, Any] = {"responses": {200: good, **error_responses()}}
    if body is not None:
        said["openapi_extra"] = {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": REFERENCE + body.__name__}}},
            }
        }
    return said


REFERENCE = "#/components/schemas/"


def error_responses() -> dict[int | str, dict[str, Any]]:
    """The answers that every route may give."""
    return {status: {"model": Error} for status in STATUSES}
