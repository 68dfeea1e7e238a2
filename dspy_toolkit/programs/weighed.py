"""Calls whose answers bring the probabilities of their options along.

DSPy's lists of texts have no place for them. Such a call is made as an explicit `Request`, whose
`Response` is cached with them, and is answered with a mapping in the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dspy.clients.call_result import legacy_output
from dspy.lm15 import DataPart, Request, Response, request_from_openai_chat

from dspy_toolkit.engine.bridge import OPTIONS_KEY

# In an output of the language model: {field: {option: probability}}.
PROBABILITIES = "probabilities"
_OUTSIDE = ("n", "rollout_id", "cache")


def weighed_request(
    model: str, prompt: Any, messages: Any, settings: Mapping[str, Any]
) -> Request | None:
    """The call as a request, if it asks for probabilities.

    Args:
        model, prompt, messages: of the call.
        settings: the model's keywords and the call's over them.
    """
    form = settings.get("response_format")
    if not isinstance(form, dict) or OPTIONS_KEY not in form.get("json_schema", {}).get(
        "schema", {}
    ):
        return None
    body = {
        "model": model,
        "messages": messages or [{"role": "user", "content": prompt}],
        **{k: v for k, v in settings.items() if v is not None and k not in _OUTSIDE},
    }
    request: Request = request_from_openai_chat(body)
    return replace(request, config=replace(request.config, probabilities="if_available"))


def weighed_output(response: Response) -> dict[str, Any]:
    """The answer in the form of DSPy's lists, with its probabilities."""
    message = response.message
    parts = tuple(part for part in message.parts if not isinstance(part, DataPart))
    plain = replace(response, message=replace(message, parts=parts))
    output: dict[str, Any] = legacy_output(plain, logprobs=response.logprobs is not None)
    # A response that was put together from a stream has them in its provider's data.
    data = response.provider_data if isinstance(response.provider_data, dict) else {}
    return {**output, PROBABILITIES: response.probabilities or data.get(PROBABILITIES, {})}
