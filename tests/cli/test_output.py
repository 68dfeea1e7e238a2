from __future__ import annotations

import json

import pytest

from dspy_toolkit.cli.output import out, out_json, say, table

AWKWARD = "sig.toml:100: [bold]\t:warning: Zo\u00eb"


def test_data_is_printed_to_the_letter_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out(AWKWARD)
    printed = capsys.readouterr()

    assert (printed.out, printed.err) == (f"{AWKWARD}\n", "")


def test_json_reads_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    out_json({"text": AWKWARD})

    assert json.loads(capsys.readouterr().out) == {"text": AWKWARD}


def test_talk_goes_to_stderr_and_is_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: [red] at sig.toml:100: no")
    printed = capsys.readouterr()

    assert (printed.out, printed.err) == ("", "error: [red] at sig.toml:100: no\n")


def test_a_table_never_breaks_its_first_column_nor_reads_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit"

    table("[b]title[/b]", ["model", "[i]note[/i]"], [(name, "a [bold] note " * 10)])
    printed = capsys.readouterr().out

    assert all(text in printed for text in (name, "[bold]", "[b]title[/b]", "[i]note[/i]"))
