from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.engine.chat import Chat, PromptRefused
from tests.engine.tiny import CHATML, write_tokenizer

GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
DEAF = (
    "{% for m in messages if m['role'] != 'system' %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
)
TOOLS = (
    "{% for t in tools or [] %}"
    "tool {{ t.function.name }}: {{ t.function.description }}\n{% endfor %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}{# tool_call.name #}"
)
THINKS = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking %}<think>\n{% endif %}"
)
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Two?"},
]


def chat(folder: Path, template: str | None, **variables: Any) -> Chat:
    from mlx_lm.tokenizer_utils import load

    write_tokenizer(folder, template)
    return Chat(load(folder), variables)


def test_the_template_gets_the_whole_conversation(tmp_path: Path) -> None:
    assert chat(tmp_path, CHATML).render(TALK, [], {}) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_markers_of_the_template_are_single_tokens(tmp_path: Path) -> None:
    ids = chat(tmp_path, CHATML).encode("<|im_start|>user\n<|im_end|>")

    assert (ids[0], ids[-1]) == (1, 2)


@pytest.mark.parametrize("template", [GEMMA, DEAF])
def test_a_system_message_the_template_does_not_take_goes_into_the_first_user_turn(
    tmp_path: Path, template: str
) -> None:
    text = chat(tmp_path, template).render(TALK, [], {})

    assert text.startswith("<user>Be brief.\n\nOne?<assistant>Yes.<user>Two?")


def test_user_turns_that_meet_are_joined_where_the_template_wants_turns(tmp_path: Path) -> None:
    turns = [TALK[0], TALK[1], TALK[3]]
    text = chat(tmp_path, GEMMA).render(turns, [], {})

    assert text == "<user>Be brief.\n\nOne?\n\nTwo?<model>"


def test_a_conversation_that_no_form_fits_is_refused_with_the_templates_reason(
    tmp_path: Path,
) -> None:
    turns = [TALK[1], TALK[2], TALK[2], TALK[3]]

    with pytest.raises(PromptRefused, match="Roles must alternate"):
        chat(tmp_path, GEMMA).render(turns, [], {})


def test_without_a_template_turns_are_plain_lines(tmp_path: Path) -> None:
    plain = chat(tmp_path, None)

    assert plain.render(TALK, [], {}) == (
        "System: Be brief.\n\nUser: One?\n\nAssistant: Yes.\n\nUser: Two?\n\nAssistant:"
    )
    assert "\nUser:" in plain.markers(("x",), tools=False).stops


def test_with_a_template_only_the_callers_stops_count(tmp_path: Path) -> None:
    assert chat(tmp_path, CHATML).markers(("x",), tools=False).stops == ("x",)


def test_an_answer_that_was_begun_is_continued(tmp_path: Path) -> None:
    turns = [TALK[1], {"role": "assistant", "content": "Yes, bec"}]
    text = chat(tmp_path, CHATML).render(turns, [], {})

    assert text.endswith("<|im_start|>assistant\nYes, bec")


def test_variables_of_the_call_win_over_those_of_the_engine(tmp_path: Path) -> None:
    shouts = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ mood }}{{ name }}"
    text = chat(tmp_path, shouts, mood="!", name="A").render([TALK[1]], [], {"mood": "?"})

    assert text == "One??A"


def test_tools_and_calls_reach_the_template(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "Finds."}}
    call = {"type": "function", "function": {"name": "find", "arguments": {"q": 1}}}
    taking = chat(tmp_path, TOOLS)
    turns = [TALK[1], {"role": "assistant", "content": "", "tool_calls": [call]}, TALK[3]]
    text = taking.render(turns, [tool], {})

    assert taking.takes_tools
    assert text.startswith("tool find: Finds.\n<user>One?")
    assert '<tool_call>{"name": "find", "arguments": {"q": 1}}</tool_call>' in text
    assert taking.markers((), tools=True).tool == ("<tool_call>", "</tool_call>")
    assert taking.markers((), tools=False).tool is None


def test_thinking_that_the_template_opened_is_recognised(tmp_path: Path) -> None:
    from mlx_lm.tokenizer_utils import load

    write_tokenizer(tmp_path, THINKS)
    wrapper = load(tmp_path)
    wrapper.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    (tmp_path / "out").mkdir()
    wrapper._tokenizer.save_pretrained(tmp_path / "out")
    thinking = Chat(load(tmp_path / "out"), {})

    assert thinking.thinks
    assert thinking.begins(thinking.render([TALK[1]], [], {"enable_thinking": True})) == "thinking"
    assert thinking.begins(thinking.render([TALK[1]], [], {"enable_thinking": False})) == "text"
