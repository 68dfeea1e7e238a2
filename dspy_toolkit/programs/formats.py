"""Prompt formats: DSPy's adapters by name, as the toolkit uses them."""

from __future__ import annotations

from collections.abc import Callable

import dspy

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.programs.checked import CheckedChat, CheckedJSON, CheckedXML
from dspy_toolkit.programs.guided import GuidedChat, GuidedJSON


def prompt_format(name: str) -> dspy.Adapter:
    """Make the adapter of a prompt format.

    Args:
        name: `chat` (DSPy's default, which asks again in JSON when an answer cannot be parsed),
            `chat_only` (the same without the second question), `guided` (the same, held to the
            fields' types while it is generated), `json`, `guided_json` (the same, held) or `xml`.

    Raises:
        InvalidInput: no format has this name.
    """
    if name not in FORMATS:
        raise InvalidInput(f"prompt format {name!r} does not exist; {nearest(name, FORMATS)}")
    return FORMATS[name]()


FORMATS: dict[str, Callable[[], dspy.Adapter]] = {
    "chat": CheckedChat,
    "chat_only": lambda: CheckedChat(use_json_adapter_fallback=False),
    "guided": GuidedChat,
    "guided_json": GuidedJSON,
    "json": CheckedJSON,
    "xml": CheckedXML,
}
"""The one table of formats; tasks, artifacts and fine-tuning take every one of them."""
