from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.compression.analysis import analyse
from dspy_toolkit.compression.bench import CPU_NOTE, BenchOptions, bench, compared
from dspy_toolkit.compression.speed import quantile
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from tests.compression.making import packed_model

FEW = BenchOptions(rows=(1, 2), prompt=8, new=3, rounds=2)


@pytest.fixture(scope="module")
def report(model: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Any:
    packed = packed_model(tmp_path_factory.mktemp("packed"))
    return bench([str(model), str(packed)], FEW, replace(settings, device="cpu"))


def test_models_are_measured_beside_each_other(report: dict[str, Any]) -> None:
    plain, packed = report["models"]

    assert packed["size_bytes"] < plain["size_bytes"]
    assert packed["parameters"] == plain["parameters"]
    for each in report["models"]:
        assert [speed["rows"] for speed in each["speeds"]] == [1, 2]
        for speed in each["speeds"]:
            value = speed["decode_tokens_per_s"]
            assert 0 < value["least"] <= value["median"] <= value["most"]
            assert speed["peak_bytes"] > 0


def test_packed_speed_on_a_cpu_is_said_to_mean_nothing(report: dict[str, Any]) -> None:
    assert report["device"] == "cpu"
    assert report["note"] == CPU_NOTE


def test_speeds_of_different_devices_are_not_ranked(report: dict[str, Any], tmp_path: Path) -> None:
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_text(json.dumps(report))
    other.write_text(json.dumps({**report, "device": "metal"}))

    assert len(compared(report, same)["models"]) == 4
    with pytest.raises(InvalidInput, match="another device"):
        compared(report, other)


def test_quantiles_by_hand() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(i) for i in range(20)], 0.95) == 19.0


def test_an_analysis_tells_parts_and_possibilities(
    model: Path, settings: Settings, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"order {i} is late" for i in range(9)))

    found = analyse(str(model), calibration=str(text), settings=settings)

    assert [each["part"] for each in found["layers"]] == [
        "embedding and head",
        "block 0",
        "block 1",
    ]
    assert sum(each["parameters"] for each in found["layers"]) == found["parameters"]
    assert all(each["kl"] >= 0 and each["seconds"] is not None for each in found["layers"])
    assert found["cuts"] == ["layers", "ffn", "heads", "width"]
    assert {each["technique"] for each in found["techniques"] if not each["refused"]} >= {
        "rtn", "gptq", "prune",
    }  # fmt: skip


def test_a_packed_model_allows_nothing_and_the_analysis_says_why(
    settings: Settings, tmp_path: Path
) -> None:
    found = analyse(str(packed_model(tmp_path)), settings=settings)

    assert all("quantized already" in each["refused"] for each in found["techniques"])
