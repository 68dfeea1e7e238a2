from __future__ import annotations

import json
from pathlib import Path

import pytest

from dspy_toolkit.compression.calibration import CalibrationSet, load_calibration
from dspy_toolkit.compression.calibration_sources import calibration_from, from_samples
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput
from tests.compression import making


def test_a_set_is_kept_by_its_content(data: CalibrationSet, settings: Settings) -> None:
    kept = load_calibration(settings.home / "calibration" / data.digest[:16])

    assert kept.digest == data.digest
    assert [row.tokens.tolist() for row in kept.rows] == [r.tokens.tolist() for r in data.rows]


def test_every_fourth_row_is_held_out(data: CalibrationSet) -> None:
    assert len(data.held) == len(data.rows) // 4
    assert len(data.fit) + len(data.held) == len(data.rows)
    assert not {id(row) for row in data.fit} & {id(row) for row in data.held}


def test_windows_are_the_ends_of_long_rows_and_short_ones_in_a_line(data: CalibrationSet) -> None:
    whole = len(data.fit[0].tokens)
    short = data.windows(1 + max(len(row.tokens) for row in data.fit), 2)
    ends = data.windows(7, 100)

    assert short[0][:whole].tolist() == data.fit[0].tokens.tolist()
    assert ends.shape == (len(data.fit), 7)
    assert ends[3].tolist() == data.fit[3].tokens[-7:].tolist()


def test_too_few_examples_are_refused(model: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too small: 5 usable examples, at least 8"):
        making.reading(tmp_path, model, settings, rows=5)


def test_samples_are_the_models_own_and_repeat(model: Path, settings: Settings) -> None:
    subject = look_at(str(model), settings)

    first, again = (from_samples(subject, settings, count=8, seed=3) for _ in range(2))
    other = from_samples(subject, settings, count=8, seed=4)

    assert first.digest == again.digest != other.digest


def test_chats_count_their_answers_only(model: Path, settings: Settings, tmp_path: Path) -> None:
    turns = [
        {"messages": [{"role": "user", "content": f"{i} plus {i}"},
                      {"role": "assistant", "content": "two"}]}
        for i in range(9)
    ]  # fmt: skip
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in turns))

    found = calibration_from(str(file), None, look_at(str(model), settings), settings)

    assert all(0 < row.goals.sum() < len(row.tokens) / 2 for row in found.rows)


def test_a_changed_set_is_refused(model: Path, settings: Settings, tmp_path: Path) -> None:
    kept = making.reading(tmp_path / "text", model, Settings(home=tmp_path))
    folder = tmp_path / "calibration" / kept.digest[:16]
    (folder / "rows.jsonl").write_text("")

    with pytest.raises(IntegrityError, match="changed after it was written"):
        load_calibration(folder)
