"""The models at hand: those on this machine, those worth getting, and what each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.source import (
    EMBEDDED,
    EMBEDDED_FOLDER,
    check_tokenizer,
    download,
    find_source,
    read_config,
    weight_files,
)


@dataclass(frozen=True)
class Recommendation:
    """A model worth getting.

    Attributes:
        reference: hub id.
        machine_gb: least memory of a machine that runs it well.
        download_gb: size of its files.
        note: what it is good for.
    """

    reference: str
    machine_gb: int
    download_gb: float
    note: str


RECOMMENDED = (
    Recommendation("mlx-community/Qwen3-0.6B-4bit", 8, 0.4, "smallest that follows a format"),
    Recommendation("mlx-community/Llama-3.2-3B-Instruct-4bit", 8, 1.8, "labels and short answers"),
    Recommendation("mlx-community/Qwen3-4B-Instruct-2507-4bit", 16, 2.3, "a good first choice"),
    Recommendation("mlx-community/Qwen3-14B-4bit", 24, 8.3, "thinks before it answers"),
    Recommendation(
        "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit", 36, 17.2, "large, yet fast: 3B active"
    ),
)


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models.

    Attributes:
        reference: what to write where a model is asked for.
        present: whether it is on this machine.
        size_bytes: of its files; an estimate where it is not present.
        folder: where it lies, or None.
        note: what it is good for.
        machine_gb: least memory of a machine that runs it well, where it is a recommended one.
    """

    reference: str
    present: bool
    size_bytes: int
    folder: Path | None
    note: str
    machine_gb: int | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a model is and how it would run here.

    Attributes:
        reference: as asked for.
        folder: where it lies.
        architecture: mlx-lm's name of it.
        parameters: how many numbers it has.
        file_bytes: size of its weights on disk.
        quantization: for people, such as "4-bit, groups of 64", or None.
        context: most tokens of prompt and answer, or None where it names none.
        vocabulary: how many tokens it knows, or None.
        template: "own" or "plain", where it has none of its own.
        device: "metal", "cuda" or "cpu".
        dtype: type of the arithmetic, or "weights" for that of the weights.
        expanded: whether quantized weights are expanded here, because that is faster.
        weight_bytes: memory of the weights as loaded.
        cache_bytes_per_token: memory of each token of each running call, or None.
        memory_bytes: what the device offers.
        sharing: what calls of it share, for people.
        model_string: what DSPy's cache sees.
    """

    reference: str
    folder: Path
    architecture: str
    parameters: int
    file_bytes: int
    quantization: str | None
    context: int | None
    vocabulary: int | None
    template: str
    device: str
    dtype: str
    expanded: bool
    weight_bytes: int
    cache_bytes_per_token: int | None
    memory_bytes: int
    sharing: str
    model_string: str

    @property
    def fits(self) -> bool:
        """Whether the weights fit into the device's memory."""
        return self.weight_bytes <= self.memory_bytes


def list_models() -> list[ModelEntry]:
    """The embedded model, what the hub cache holds, and what is recommended, in that order."""
    entries = []
    if (EMBEDDED_FOLDER / "config.json").is_file():
        note = "tiny; shows that the toolkit works"
        entries.append(
            ModelEntry(EMBEDDED, True, _folder_bytes(EMBEDDED_FOLDER), EMBEDDED_FOLDER, note)
        )
    notes = {entry.reference: entry.note for entry in RECOMMENDED}
    present = {entry.reference: entry for entry in _cached(notes)}
    entries += sorted(present.values(), key=lambda entry: entry.reference)
    entries += [
        ModelEntry(
            entry.reference,
            False,
            int(entry.download_gb * 1e9),
            None,
            entry.note,
            entry.machine_gb,
        )
        for entry in RECOMMENDED
        if entry.reference not in present
    ]
    return entries


def describe_model(
    reference: str, options: EngineOptions | None = None, settings: Settings | None = None
) -> ModelFacts:
    """Look at a model on this machine without loading its weights.

    Raises:
        NotFound: no such model here. ModelBroken: its files are not in order.
    """
    settings = settings or load_settings()
    options = options or EngineOptions()
    # Before anything imports MLX.
    preload_blas(settings.blas)
    from dspy_toolkit.engine import sizes
    from dspy_toolkit.engine.identity import identify
    from dspy_toolkit.engine.sharing import shared_by_calls
    from dspy_toolkit.engine.weights import expands

    source = find_source(reference)
    config = read_config(source.folder)
    files = weight_files(source.folder)
    check_tokenizer(source.folder)
    identity = identify(source, options, settings)
    device = identity.device
    parameters = sizes.parameter_count(files, config)
    stored = sum(file.stat().st_size for file in files)
    expanded = expands(config, files, device)
    width = _BYTES.get(device.dtype or "")
    plain = sizes.quantization(config) is None
    per_token = sizes.cache_values_per_token(config)
    return ModelFacts(
        reference=reference,
        folder=source.folder,
        architecture=config["model_type"],
        parameters=parameters,
        file_bytes=stored,
        quantization=_quantization_text(sizes.quantization(config)),
        context=options.context or sizes.context_length(config),
        vocabulary=_vocabulary(config),
        template="own" if _has_template(source.folder) else "plain",
        device=device.name,
        dtype=device.dtype or "weights",
        expanded=expanded,
        weight_bytes=parameters * width if width and (plain or expanded) else stored,
        cache_bytes_per_token=None if per_token is None else per_token * (width or 2),
        memory_bytes=device.memory_bytes,
        sharing=shared_by_calls(config),
        model_string=identity.model_string,
    )


def pull_model(reference: str, progress: bool = True) -> Path:
    """Bring a model from the hub onto this machine; returns its folder.

    Raises:
        NotFound: no such model. EngineError: no network, or the disk is full.
        ModelBroken: what came is no model that mlx-lm can load.
    """
    if reference == EMBEDDED:
        return EMBEDDED_FOLDER
    folder = download(reference, progress)
    read_config(folder)
    weight_files(folder)
    check_tokenizer(folder)
    return folder


_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def _cached(notes: dict[str, str]) -> list[ModelEntry]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    entries = []
    for repo in repos:
        for revision in repo.revisions:
            names = {file.file_name for file in revision.files}
            whole = "config.json" in names and any(n.endswith(".safetensors") for n in names)
            if repo.repo_type == "model" and whole and "main" in revision.refs:
                note = notes.get(repo.repo_id, "")
                folder = revision.snapshot_path
                entries.append(ModelEntry(repo.repo_id, True, revision.size_on_disk, folder, note))
    return entries


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _quantization_text(packing: dict[str, Any] | None) -> str | None:
    if packing is None:
        return None
    mixed = any(isinstance(value, dict) for value in packing.values())
    bits = packing.get("bits", "?")
    text = f"{bits}-bit, groups of {packing.get('group_size', '?')}"
    return f"{text}, some layers otherwise" if mixed else text


def _vocabulary(config: dict[str, Any]) -> int | None:
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return int(size) if isinstance(size, int) else None


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and '"chat_template' in config.read_text(encoding="utf-8")
