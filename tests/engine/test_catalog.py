from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, describe_model, list_models, open_engine, pull_model
from dspy_toolkit.engine.catalog import RECOMMENDED
from dspy_toolkit.errors import EngineError, InvalidInput, NotFound
from tests.engine.tiny import write_architecture, write_model


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_cache(hub: Path, reference: str, model: Path) -> None:
    repository = hub / f"models--{reference.replace('/', '--')}"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(model, repository / "snapshots" / revision)


def test_a_plain_model_is_described_without_loading_it(
    model_folder: Path, settings: Settings
) -> None:
    facts = describe_model(str(model_folder), settings=settings)

    assert (facts.architecture, facts.parameters, facts.quantization) == ("llama", 99_648, None)
    assert (facts.context, facts.vocabulary, facts.template) == (512, 400, "own")
    assert (facts.device, facts.dtype, facts.expanded) == ("cpu", "float32", False)
    assert facts.weight_bytes == 4 * 99_648
    # 2 layers, 2 heads of keys and of values, 16 numbers of 4 bytes each
    assert facts.cache_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert facts.fits
    assert facts.sharing == "what prompts begin with, read once and stored once"


@pytest.mark.parametrize(("which", "kept"), [("mamba", "ArraysCache"), ("lfm2", "ArraysCache")])
def test_a_model_that_cannot_share_everything_says_so_before_it_is_loaded(
    which: str, kept: str, tmp_path: Path, settings: Settings
) -> None:
    facts = describe_model(str(write_architecture(tmp_path / which, which)), settings=settings)

    assert "checkpoints" in facts.sharing
    assert kept in facts.sharing


def test_a_quantized_model_counts_what_its_packed_numbers_stand_for(
    tmp_path: Path, settings: Settings
) -> None:
    folder = write_model(tmp_path / "packed", template=None, bits=4)
    facts = describe_model(str(folder), settings=settings)

    assert facts.parameters == 99_648
    assert facts.quantization == "4-bit, groups of 32"
    assert facts.expanded
    assert facts.weight_bytes == 4 * 99_648
    assert facts.template == "plain"


def test_the_model_string_is_that_of_the_engine(model_folder: Path, settings: Settings) -> None:
    options = EngineOptions(min_p=0.1)
    engine = open_engine(str(model_folder), options, settings)
    engine.close()

    assert describe_model(str(model_folder), options, settings).model_string == engine.model_string


def test_describing_leaves_the_network_alone(offline: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match="run `dspy-tk models pull nobody/nothing`"):
        describe_model("nobody/nothing", settings=settings)


def test_the_list_holds_the_cache_and_what_is_recommended(
    offline: Path, model_folder: Path
) -> None:
    in_cache(offline, "tiny-lab/tiny", model_folder)
    in_cache(offline, RECOMMENDED[0].reference, model_folder)
    entries = {entry.reference: entry for entry in list_models()}

    assert entries["tiny-lab/tiny"].present
    assert entries["tiny-lab/tiny"].size_bytes > 200_000
    assert entries[RECOMMENDED[0].reference].present
    assert not entries[RECOMMENDED[1].reference].present
    assert set(entries) >= {entry.reference for entry in RECOMMENDED}


def test_without_a_cache_the_list_still_recommends(offline: Path) -> None:
    assert [e.reference for e in list_models() if not e.present] == [
        entry.reference for entry in RECOMMENDED
    ]


def test_pulling_without_a_network_says_what_to_do(offline: Path) -> None:
    with pytest.raises(EngineError, match="cannot be downloaded: HF_HUB") as failure:
        pull_model("nobody/nothing")

    assert "\n" not in str(failure.value)


def test_pulling_what_is_here_gives_its_folder(offline: Path, model_folder: Path) -> None:
    in_cache(offline, "tiny-lab/tiny", model_folder)

    assert (pull_model("tiny-lab/tiny") / "config.json").is_file()


def test_pulling_no_id_at_all_is_refused_with_an_example(offline: Path) -> None:
    with pytest.raises(InvalidInput, match="is no hub id; write owner/name"):
        pull_model("not an id")
