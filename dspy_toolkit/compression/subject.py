"""The model a technique starts from, as its files tell it, without loading weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.digest import model_digest
from dspy_toolkit.engine.sizes import parameter_count, quantization
from dspy_toolkit.engine.source import (
    check_tokenizer,
    download,
    find_source,
    read_config,
    read_header,
    weight_files,
)
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.store.manifest import NAME as MANIFEST
from dspy_toolkit.store.manifest import read_manifest

_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1, "F64": 8}
PLAIN_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of weights that are not packed: safetensors' names to MLX's."""


class Unsupported(InvalidInput):
    """A technique cannot work on a model; the message says on which it can."""


@dataclass(frozen=True)
class Tensor:
    """One array of a model on disk: its type as safetensors names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.size * _BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class Subject:
    """A model on this machine.

    Attributes:
        reference: as asked for.
        name: short, for people and folders.
        folder: where it lies.
        config: its `config.json`.
        digest: hex SHA-256 of what it answers by.
        tensors: by name.
        parameters: packed ones counted as what they stand for.
    """

    reference: str
    name: str
    folder: Path
    config: dict[str, Any]
    digest: str
    tensors: Mapping[str, Tensor]
    parameters: int

    @property
    def family(self) -> str:
        """mlx-lm's name of the architecture, as the configuration has it."""
        return str(self.config["model_type"])

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on disk."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def quantized(self) -> bool:
        """Whether its weights are packed already."""
        return quantization(self.config) is not None

    @property
    def dtype(self) -> str:
        """The type its plain weights are stored in."""
        largest: dict[str, int] = {}
        for tensor in self.tensors.values():
            if tensor.dtype in PLAIN_TYPES:
                largest[tensor.dtype] = largest.get(tensor.dtype, 0) + tensor.size
        return PLAIN_TYPES[max(largest, key=largest.__getitem__)] if largest else "float32"

    def require_plain(self, what: str) -> None:
        """Refuse a model whose weights are packed.

        Raises:
            Unsupported: they are.
        """
        if self.quantized:
            raise Unsupported(
                f"model {self.reference} is quantized already, and {what} needs plain weights; "
                "give the model it was made from"
            )
        if "low_rank" in self.config:
            raise Unsupported(
                f"model {self.reference} is of low rank already, and {what} needs plain weights; "
                "give the model it was made from"
            )


def look_at(reference: str, settings: Settings) -> Subject:
    """Find a model and read what its files say; one with a manifest is verified against it.

    Raises:
        NotFound: there is no such model. ModelBroken: its files are not in order.
        IntegrityError: a file is not what its manifest vouches for.
    """
    source = find_source(reference, fetch=download)
    config = read_config(source.folder)
    files = weight_files(source.folder)
    check_tokenizer(source.folder)
    if (source.folder / MANIFEST).is_file():
        read_manifest(source.folder, "model")
    tensors = {
        name: Tensor(entry["dtype"], tuple(entry["shape"]))
        for file in files
        for name, entry in read_header(file).items()
    }
    return Subject(
        reference=reference,
        name=source.name,
        folder=source.folder,
        config=config,
        digest=model_digest(source.folder, None, settings.home),
        tensors=tensors,
        parameters=parameter_count(files, config),
    )
