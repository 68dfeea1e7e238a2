"""Finding a model's folder from its reference, and checking its files before MLX reads them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import EngineError, InvalidInput, NotFound

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DOWNLOAD = (
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "*.jinja",
)
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model")
_FOREIGN = {"*.gguf": "GGUF", "*.bin": "PyTorch", "*.pth": "PyTorch", "*.h5": "TensorFlow"}


class ModelBroken(EngineError):
    """A model folder lacks something or is damaged."""


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine.

    Attributes:
        reference: as the user wrote it.
        name: short, for people and for DSPy's model string.
        folder: where config, weights and tokenizer lie.
    """

    reference: str
    name: str
    folder: Path


def find_source(reference: str, fetch: Callable[[str], Path] | None = None) -> ModelSource:
    """Find the folder of a model.

    Args:
        reference: "embedded", a folder, or a hub id such as `mlx-community/Qwen3-4B-4bit`.
        fetch: gets a hub id that is not on this machine; None leaves the network alone.

    Raises:
        NotFound: there is no such folder, nor a model of that id.
    """
    if reference == EMBEDDED:
        return ModelSource(reference, EMBEDDED, EMBEDDED_FOLDER)
    path = Path(reference).expanduser()
    if path.is_dir():
        return ModelSource(reference, _short(path.absolute().name), path.absolute())
    if path.exists():
        raise NotFound(f"model {reference!r} is a file; give the folder that holds its config.json")
    if not HUB_ID.fullmatch(reference):
        raise NotFound(
            f"model {reference!r} does not exist; give 'embedded', a model folder, or a hub id "
            "such as mlx-community/Qwen3-4B-Instruct-2507-4bit"
        )
    folder = _in_hub_cache(reference)
    if folder is None:
        if fetch is None:
            raise NotFound(
                f"model {reference!r} is not on this machine; "
                f"run `dspy-tk models pull {reference}`, or check the path if you meant a folder"
            )
        folder = fetch(reference)
    return ModelSource(reference, _short(reference.split("/")[1]), folder)


def download(hub_id: str, progress: bool = True) -> Path:
    """Bring a model from the Hugging Face hub onto this machine; returns its folder.

    Raises:
        InvalidInput: it is no hub id. NotFound: the hub has no such model, or it needs a login.
        EngineError: the hub cannot be reached, or the disk is full.
    """
    if not HUB_ID.fullmatch(hub_id):
        raise _no_hub_id(hub_id)
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(DOWNLOAD)))
    except errors.GatedRepoError:
        raise NotFound(
            f"model {hub_id!r} asks for a login: accept its terms on "
            f"https://huggingface.co/{hub_id} and run `hf auth login`"
        ) from None
    except errors.HFValidationError:
        raise _no_hub_id(hub_id) from None
    except errors.RepositoryNotFoundError:
        raise NotFound(
            f"the Hugging Face hub has no model {hub_id!r} (or it is private); check the name on "
            "https://huggingface.co/mlx-community, or give a folder that exists"
        ) from None
    except OSError as error:
        raise EngineError(
            f"model {hub_id!r} cannot be downloaded: {_cause(error)}, then "
            f"run `dspy-tk models pull {hub_id}`, or use a model that is on this machine"
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`.

    Raises:
        ModelBroken: it is missing, not JSON, or names no architecture.
    """
    path = folder / "config.json"
    if not path.is_file() and folder == EMBEDDED_FOLDER:
        raise ModelBroken(
            "this installation lacks the embedded model; install dspy-toolkit again, or name "
            "another model"
        )
    if not path.is_file():
        raise ModelBroken(
            f"model folder {folder} has no config.json; give the folder that holds it"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelBroken(f"{path} is not valid JSON ({error}); download the model again") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelBroken(f"{path} names no model_type; it is no configuration of a model")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, whole and all there.

    Raises:
        ModelBroken: there are none, one is missing or cut short.
    """
    files = sorted(folder.glob("model*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelBroken(
                f"{index} is damaged ({one_line(error)}); download it again"
            ) from None
        for name in sorted(named - {file.name for file in files}):
            raise ModelBroken(f"model folder {folder} lacks {name}; download the model again")
    if not files:
        for pattern, kind in _FOREIGN.items():
            if any(folder.glob(pattern)):
                raise ModelBroken(
                    f"model folder {folder} holds {kind} weights, not model*.safetensors; "
                    "convert it with `mlx_lm.convert --hf-path <hub id> --mlx-path <folder>`"
                )
        raise ModelBroken(f"model folder {folder} has no model*.safetensors; download it again")
    for file in files:
        read_header(file)
    return files


def read_header(file: Path) -> dict[str, Any]:
    """Read a safetensors header: tensor name to `dtype`, `shape`, `data_offsets`.

    Raises:
        ModelBroken: the file is cut short or no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= size - 8:
            raise ModelBroken(f"{file} is no safetensors file or is cut short; download it again")
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ModelBroken(f"{file} has a damaged header; download it again") from None
    if size < 8 + length + end:
        raise ModelBroken(
            f"{file} is cut short: it has {size} of {8 + length + end} bytes; download it again"
        )
    return entries


def check_tokenizer(folder: Path) -> None:
    """Raise `ModelBroken` when a model has no tokenizer that mlx-lm can read."""
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelBroken(
            f"model folder {folder} has no tokenizer ({', '.join(_TOKENIZERS)}); copy it from "
            "the model it was made of"
        )


def one_line(error: BaseException, most: int = 200) -> str:
    """An error's message on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _no_hub_id(reference: str) -> InvalidInput:
    return InvalidInput(
        f"{reference!r} is no hub id; write owner/name, for example "
        "mlx-community/Qwen3-4B-Instruct-2507-4bit"
    )


def _cause(error: OSError) -> str:
    """Why a download failed and what to check, without the hub library's own advice."""
    from huggingface_hub import errors

    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"the hub answered {error.response.status_code}; wait a while"
    if error.errno is not None and error.strerror:
        return f"{error.strerror}; mend that"
    return "the hub cannot be reached; check the network"


def _short(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name) or "model"


def _in_hub_cache(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(hub_id, allow_patterns=list(DOWNLOAD), local_files_only=True)
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None
    return folder if (folder / "config.json").is_file() else None
