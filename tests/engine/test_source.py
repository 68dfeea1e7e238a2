from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine, source
from dspy_toolkit.engine.source import ModelBroken, download, find_source
from dspy_toolkit.errors import EngineError, InvalidInput, NotFound


@pytest.fixture
def broken(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "broken"))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{model_type: llama}")


def config_no_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"vocab_size": 3}')


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="hal9000")


def own_code(folder: Path) -> None:
    change_config(folder, model_file="steal.py")


def wrong_shapes(folder: Path) -> None:
    change_config(folder, hidden_size=128)


def too_many_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def foreign_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"hello")


def bad_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"x" * 32
    path.write_bytes(bytes(content))


def missing_part(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def bad_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[1]")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def bad_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (no_config, "has no config.json"),
        (config_no_json, "is not valid JSON"),
        (config_no_model, "names no model_type"),
        (unknown_architecture, "'hal9000', which mlx-lm does not know; upgrade"),
        (own_code, "wants to run its own Python file"),
        (wrong_shapes, "do not fit its config.json"),
        (too_many_layers, "do not fit its config.json"),
        (no_weights, r"has no model\*.safetensors; download"),
        (foreign_weights, "holds PyTorch weights.*mlx_lm.convert"),
        (truncated, r"is cut short: it has \d+ of \d+ bytes; download"),
        (no_safetensors, "is no safetensors file or is cut short"),
        (bad_header, "has a damaged header"),
        (missing_part, "lacks model-00002.safetensors"),
        (bad_index, "index.json is damaged"),
        (no_tokenizer, "has no tokenizer"),
        (bad_tokenizer, "tokenizer .*cannot be read"),
    ],
)
def test_a_broken_model_says_in_one_line_what_is_wrong_and_what_to_do(
    broken: Path, settings: Settings, damage: Callable[[Path], None], says: str
) -> None:
    damage(broken)

    with pytest.raises(EngineError, match=says) as failure:
        open_engine(str(broken), EngineOptions(), settings)

    assert "\n" not in str(failure.value)
    assert str(broken) in str(failure.value)


@pytest.mark.parametrize(
    "reference", ["no-such-thing", "./missing/folder/of/models", "/nowhere/model", "a b/c"]
)
def test_what_is_neither_a_folder_nor_a_hub_id_is_not_found(reference: str) -> None:
    with pytest.raises(NotFound, match="does not exist; give 'embedded'"):
        find_source(reference)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("")

    with pytest.raises(NotFound, match="is a file; give the folder"):
        find_source(str(path))


def test_a_hub_id_that_is_not_here_is_not_fetched_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(NotFound, match="is not on this machine; run `dspy-tk models pull"):
        find_source("nobody/nothing")


def test_without_a_network_a_hub_id_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(EngineError, match=r"cannot be downloaded: .*HF_HUB_OFFLINE") as failure:
        open_engine("nobody/nothing", settings=settings)

    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("reference", ["a b c", "gpt 2/x", "no-owner", "a/b/c", ""])
def test_what_is_no_hub_id_is_refused_before_any_network(reference: str) -> None:
    with pytest.raises(InvalidInput, match="is no hub id; write owner/name"):
        download(reference)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; mend that"),
        (OSError("HTTPSConnectionPool(host=...): Max retries"), "the hub cannot be reached; check"),
    ],
)
def test_a_download_that_fails_names_one_cause(
    monkeypatch: pytest.MonkeyPatch, error: OSError, cause: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)

    with pytest.raises(EngineError, match=f"cannot be downloaded: {cause}"):
        download("nobody/nothing")


def test_a_model_in_the_hub_cache_is_found_by_its_id(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--tiny-lab--tiny-model"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    shutil.copytree(model_folder, repository / "snapshots" / revision)
    found = find_source("tiny-lab/tiny-model")

    assert found.name == "tiny-model"
    assert (found.folder / "config.json").is_file()


def test_names_are_fit_for_a_model_string(tmp_path: Path) -> None:
    folder = tmp_path / "my model #1"
    folder.mkdir()

    assert find_source(str(folder)).name == "my-model-1"


def test_a_header_is_read_without_the_weights(model_folder: Path) -> None:
    header = source.read_header(model_folder / "model.safetensors")

    assert header["model.embed_tokens.weight"]["shape"] == [400, 64]


def test_an_empty_file_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")

    with pytest.raises(ModelBroken, match="cut short"):
        source.read_header(path)
