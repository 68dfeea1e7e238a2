"""What every technique must do, whatever it does."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dspy_toolkit.compression.build import Built, build, order
from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, UnknownKey
from dspy_toolkit.store.files import sha256_file
from dspy_toolkit.store.manifest import read_manifest


class TechniqueContract:
    """Give `name` and `options`, and a model in the fixtures.

    `repeats` says whether the same options give the same weights; not so where times decide.
    """

    name: str
    options: Mapping[str, Any] = {}
    repeats = True

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, model: Path, data: CalibrationSet, settings: Settings) -> Built:
        before = fingerprints(model)
        made = build(order(str(model), cls.name, cls.options, data, settings), settings)
        assert fingerprints(model) == before, "the original was touched"
        return made

    def test_the_result_is_smaller_and_says_of_what_it_was_made(
        self, built: Built, model: Path, data: CalibrationSet
    ) -> None:
        manifest = read_manifest(built.folder, "model")

        assert manifest["measures"]["bytes"] < manifest["measures"]["parent_bytes"]
        assert manifest["parent"]["reference"] == str(model)
        assert manifest["recipe"]["technique"] == self.name
        assert manifest["calibration"]["digest"] == data.digest
        assert manifest["measures"]["kl"] >= 0

    def test_the_estimate_holds(
        self, built: Built, model: Path, data: CalibrationSet, settings: Settings
    ) -> None:
        foreseen = order(str(model), self.name, self.options, data, settings).estimate

        assert built.measures["bytes"] <= 1.02 * foreseen.disk_bytes
        assert not foreseen.sure or built.measures["parameters"] == foreseen.parameters

    def test_nothing_is_built_twice(
        self, built: Built, model: Path, data: CalibrationSet, settings: Settings
    ) -> None:
        again = build(order(str(model), self.name, self.options, data, settings), settings)

        assert not again.fresh
        assert again.folder == built.folder

    def test_an_engine_answers_with_it(self, built: Built, settings: Settings) -> None:
        from dspy_toolkit.engine import EngineOptions, open_engine

        engine = open_engine(str(built.folder), EngineOptions(max_tokens=4), settings)
        engine.close()

        assert engine.facts.device in ("cpu", "metal", "cuda")

    def test_a_damaged_result_is_set_aside_and_made_again(
        self, built: Built, model: Path, data: CalibrationSet, settings: Settings, tmp_path: Path
    ) -> None:
        other = Settings(home=tmp_path)
        wanted = order(str(model), self.name, self.options, data, other)
        shutil.copytree(built.folder, wanted.folder)
        (wanted.folder / "config.json").write_text("{}")

        again = build(wanted, other)

        assert again.fresh
        assert read_manifest(again.folder, "model")["key"] == built.manifest["key"]
        assert not self.repeats or again.manifest["files"] == built.manifest["files"]

    def test_an_unknown_option_is_refused(
        self, model: Path, data: CalibrationSet, settings: Settings
    ) -> None:
        with pytest.raises(UnknownKey, match="bitz"):
            order(str(model), self.name, {"bitz": 4}, data, settings)

    def test_a_packed_model_is_refused(
        self, packed_model: Path, data: CalibrationSet, settings: Settings
    ) -> None:
        with pytest.raises(Unsupported, match="quantized already"):
            order(str(packed_model), self.name, self.options, data, settings)

    def test_data_of_another_tokenizer_are_refused(
        self, model: Path, data: CalibrationSet, settings: Settings
    ) -> None:
        from dataclasses import replace

        with pytest.raises(InvalidInput, match="another tokenizer"):
            order(str(model), self.name, self.options, replace(data, tokenizer="0"), settings)

    def test_a_failure_while_writing_leaves_nothing(
        self,
        model: Path,
        data: CalibrationSet,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        other = Settings(home=tmp_path)
        wanted = order(str(model), self.name, self.options, data, other)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(mx, "save_safetensors", refuse)
        with pytest.raises(Exception, match="no disk space left"):
            build(wanted, other)

        assert not wanted.folder.exists()
        assert not list(wanted.folder.parent.glob("*.tmp"))


def fingerprints(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.is_file()}
