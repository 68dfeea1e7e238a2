"""The bodies of requests, as OpenAI has them, with what is understood here.

A field that is not listed is refused by name: a setting that is passed over in silence is worse
than one that is missing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_CHOICES = 16
_SEED = 2**63


class Body(BaseModel):
    """Strict: no unknown fields, and no text where a number belongs."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextContent(Body):
    type: Literal["text"]
    text: str


class RefusalContent(Body):
    type: Literal["refusal"]
    refusal: str


Text = str | list[TextContent]


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Text
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Text
    name: str | None = None


class CalledFunction(Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: str


class ToolCall(Body):
    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: str | list[TextContent | RefusalContent] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None


class ToolMessage(Body):
    role: Literal["tool"]
    content: Text
    tool_call_id: Annotated[str, Field(min_length=1)]


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Body):
    name: Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class NamedSchema(Body):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


Format = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None


Stop = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)]
)
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampled(Body):
    """What both kinds of completion share; `top_k`, `min_p` and `repetition_penalty` are extras."""

    model: Annotated[str, Field(min_length=1)]
    frequency_penalty: Penalty | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=-_SEED, lt=_SEED)] | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    user: str | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None


class ChatBody(Sampled):
    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: Format | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionBody(Sampled):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class EmbeddingBody(Body):
    model: Annotated[str, Field(min_length=1)]
    input: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class ProgramBody(Body):
    """One call of a program; the fields of `inputs` are those of its signature."""

    inputs: dict[str, Any]
    stream: bool = False
    probabilities: bool = False


class BatchBody(Body):
    """Several calls of a program, answered together."""

    inputs: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=256)]
    probabilities: bool = False
