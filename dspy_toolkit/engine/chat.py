"""From a conversation to the tokens a model reads, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError

from dspy_toolkit.engine.encoding import PromptEncoder
from dspy_toolkit.engine.output import Kind, Markers

Turn = dict[str, Any]

PLAIN_STOPS = ("\nUser:", "\nSystem:", "\nAssistant:")
_REFUSALS = (TemplateError, ValueError, TypeError, KeyError, AttributeError)


class PromptRefused(ValueError):
    """A conversation cannot be put into the model's template; the message says why."""


class Chat:
    """A model's template and tokenizer. May be used from any thread.

    Templates differ in what they take. One that refuses a system message, or leaves it out
    without a word, gets its text at the head of the first user turn instead. A model without a
    template gets plain lines, `System: ...`, `User: ...`, `Assistant: ...`, separated by empty
    ones, and its answer ends where it begins the next such line.
    """

    def __init__(self, tokenizer: Any, variables: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._variables = dict(variables)
        self._encoder = PromptEncoder(tokenizer)

    @property
    def takes_tools(self) -> bool:
        """Whether tools can be offered and calls of them recognised."""
        return bool(self._tokenizer.has_tool_calling and self._tokenizer.has_chat_template)

    @property
    def thinks(self) -> bool:
        """Whether the model marks off thinking before its answer."""
        return bool(self._tokenizer.has_thinking)

    def markers(self, stops: tuple[str, ...], tools: bool) -> Markers:
        """What to look for in the output of a call."""
        plain = () if self._tokenizer.has_chat_template else PLAIN_STOPS
        wrapper = self._tokenizer
        return Markers(
            stops=(*stops, *plain),
            think=(wrapper.think_start, wrapper.think_end) if self.thinks else None,
            tool=(wrapper.tool_call_start, wrapper.tool_call_end or "") if tools else None,
        )

    def begins(self, prompt: str) -> Kind:
        """What the first token after a prompt belongs to: templates may open the thinking."""
        opened = self.thinks and prompt.rstrip().endswith(self._tokenizer.think_start)
        return "thinking" if opened else "text"

    def render(
        self, turns: list[Turn], tools: list[dict[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        """Write a whole conversation as one prompt.

        Args:
            turns: `{"role": "system" | "user" | "assistant" | "tool", "content": ...}`, in
                order. When the last is the assistant's, the model continues it.
            tools: OpenAI function declarations.
            variables: of the template, over those of the engine.

        Raises:
            PromptRefused: the template takes the conversation in no form.
        """
        if not self._tokenizer.has_chat_template:
            return _plain(turns)
        system = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
        try:
            text = self._apply(turns, tools, variables)
            if all(content in text for content in system):
                return text
        except _REFUSALS as error:
            refusal: Exception = error
        else:
            refusal = PromptRefused("the chat template leaves out the system message")
        merged = _merge_system(turns)
        if merged != turns:
            try:
                return self._apply(merged, tools, variables)
            except _REFUSALS as error:
                refusal = error
        raise PromptRefused(
            f"the model's chat template refuses this conversation: {refusal}"
        ) from refusal

    def encode(self, prompt: str, raw: bool = False) -> list[int]:
        """Tokenize a rendered prompt, which has its own beginning-of-text token, or a raw text."""
        return self._encoder.encode(prompt, raw or not self._tokenizer.has_chat_template)

    def token_text(self, token: int) -> str:
        """A single token as text."""
        return str(self._tokenizer.decode([token]))

    def detokenizer(self, continues: bool = False) -> Any:
        """A fresh streaming detokenizer; one that continues a text keeps its first space."""
        made = self._tokenizer.detokenizer
        if continues and isinstance(vars(made).get("text"), str):
            # mlx-lm drops a space where there is no text before it: let it see some.
            made.text, made.offset = "\n", 1
        return made

    def parse_call(self, text: str, tools: list[dict[str, Any]]) -> Any:
        """Read the inside of a tool call with the parser mlx-lm knows for the model."""
        return self._tokenizer.tool_parser(text, tools)

    def as_call(self, text: str) -> str:
        """The text of a call with the model's markers around it."""
        return f"{self._tokenizer.tool_call_start}{text}{self._tokenizer.tool_call_end or ''}"

    def _apply(
        self, turns: list[Turn], tools: list[dict[str, Any]], variables: Mapping[str, Any]
    ) -> str:
        continues = bool(turns) and turns[-1]["role"] == "assistant"
        text = self._tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            tools=tools or None,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **{**self._variables, **variables},
        )
        return str(text)


def _merge_system(turns: list[Turn]) -> list[Turn]:
    """Put system text before the next user turn's, and join turns of one role that then meet."""
    merged: list[Turn] = []
    pending: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            pending.append(turn["content"])
            continue
        if pending and turn["role"] == "user":
            turn = {**turn, "content": "\n\n".join([*pending, turn["content"]])}
            pending = []
        last = merged[-1] if merged else None
        if last and last["role"] == turn["role"] == "user":
            merged[-1] = {**last, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            merged.append(turn)
    if pending:
        merged.append({"role": "user", "content": "\n\n".join(pending)})
    return merged


def _plain(turns: list[Turn]) -> str:
    lines = [f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns]
    if not turns or turns[-1]["role"] != "assistant":
        lines.append("Assistant:")
    return "\n\n".join(lines)
