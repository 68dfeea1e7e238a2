"""A trained multi-task head model: a folder that answers a signature in one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.device import Device, choose_device
from dspy_toolkit.engine.digest import model_digest
from dspy_toolkit.engine.source import download, find_source
from dspy_toolkit.errors import IntegrityError
from dspy_toolkit.store.files import new_folder, write_json
from dspy_toolkit.store.manifest import read_manifest, write_manifest
from dspy_toolkit.training.checkpoints import load_arrays, save_arrays
from dspy_toolkit.training.head_decoding import HeadPrediction, decode
from dspy_toolkit.training.head_inputs import InputReader, stacked
from dspy_toolkit.training.head_specs import HeadSpec
from dspy_toolkit.training.heads import MultiHead
from dspy_toolkit.training.models import StartingModel, add_adapter, frozen_model
from dspy_toolkit.training.recipe import AdapterRecipe
from dspy_toolkit.training.result import copy_tokenizer

_KIND = "heads"
_WEIGHTS = "heads.safetensors"
_BACKBONE = "backbone"


@dataclass(frozen=True)
class HeadFacts:
    """What a head model is, beside its weights.

    Attributes:
        signature: reference of the signature it answers.
        signature_digest: of the record.
        inputs: names of the input fields, in the order they are read.
        specs: the heads.
        base: reference of the backbone.
        base_digest: of the backbone's files, when it was trained.
        mode: "full" holds the backbone; "lora" and "frozen" need `base` to be as it was.
        adapter: shape of the adapter with "lora".
        causal: whether a token sees only what is before it.
        length: most tokens it reads.
        scores: share of right answers by field and split, as measured after training.
    """

    signature: str
    signature_digest: str
    inputs: tuple[str, ...]
    specs: tuple[HeadSpec, ...]
    base: str
    base_digest: str
    mode: str
    adapter: AdapterRecipe | None
    causal: bool
    length: int
    scores: Mapping[str, Mapping[str, float]]


class HeadModel:
    """Answers a signature's outputs all at once. May be used from any thread.

    Args:
        model: backbone and heads.
        start: the backbone as it was opened.
        facts: what it is.
    """

    def __init__(self, model: MultiHead, start: StartingModel, facts: HeadFacts) -> None:
        self.facts = facts
        self._model = model
        self._start = start
        self._read = InputReader(start.tokenizer, facts.inputs, facts.length)
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> HeadModel:
        """Open a folder that `save` wrote.

        Raises:
            NotFound: there is no such folder. IntegrityError: it was changed, or its backbone was.
        """
        values = read_manifest(folder, "head model")
        if values.get("kind") != _KIND:
            raise IntegrityError(f"{folder} holds no head model; name the folder of one")
        facts = _facts(values)
        device = choose_device(settings.device, settings.dtype)
        start = _backbone(folder, facts, device, settings)
        model = MultiHead(start.model, width_of(start), facts.specs, facts.causal)
        model.load_weights(list(load_arrays(folder / _WEIGHTS).items()), strict=False)
        model.eval()
        mx.eval(model.parameters())
        return cls(model, start, facts)

    def predict(self, inputs: Mapping[str, Any]) -> HeadPrediction:
        """Answer one example.

        Raises:
            InvalidInput: an input field is missing.
        """
        return self.predict_many([inputs])[0]

    def predict_many(
        self, inputs: Sequence[Mapping[str, Any]], batch_size: int = 32
    ) -> list[HeadPrediction]:
        """Answer examples, some at a time; those of like length are read together."""
        read = [self._read(each) for each in inputs]
        order = sorted(range(len(read)), key=lambda i: len(read[i].tokens))
        found: dict[int, HeadPrediction] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with self._lock, mx.stream(self._start.device.kind):
                raw = self._model(stacked([read[i] for i in chosen]))
                arrays = {name: np.array(each.astype(mx.float32)) for name, each in raw.items()}
            for row, i in enumerate(chosen):
                rows = {name: array[row] for name, array in arrays.items()}
                found[i] = decode(self.facts.specs, rows, read[i])
        return [found[i] for i in range(len(read))]

    def save(self, folder: Path) -> Path:
        """Write the model into a folder that does not exist yet.

        Raises:
            StorageError: the disk is full or refuses; the folder does not appear.
        """
        weights = dict(tree_flatten(self._model.trainable_parameters()))
        own = {name: each for name, each in weights.items() if not _of_full_backbone(self, name)}
        with new_folder(folder) as place:
            save_arrays(place / _WEIGHTS, own)
            if self.facts.mode == "full":
                backbone = place / _BACKBONE
                backbone.mkdir()
                parameters = dict(tree_flatten(self._start.model.parameters()))
                save_arrays(backbone / "model.safetensors", parameters)
                write_json(backbone / "config.json", self._start.config)
                copy_tokenizer(self._start.folder, backbone)
            write_manifest(place, {"kind": _KIND, **_values(self.facts)})
        return folder


def width_of(start: StartingModel) -> int:
    """Width of a model's hidden states."""
    return int(start.model.model(mx.zeros((1, 1), mx.int32)).shape[-1])


def base_digest(reference: str, settings: Settings) -> str:
    """Hex SHA-256 of a backbone's files."""
    return model_digest(find_source(reference, fetch=download).folder, None, settings.home)


def _of_full_backbone(model: HeadModel, name: str) -> bool:
    return model.facts.mode == "full" and name.startswith("backbone.")


def _backbone(folder: Path, facts: HeadFacts, device: Device, settings: Settings) -> StartingModel:
    if facts.mode == "full":
        return frozen_model(str(folder / _BACKBONE), device)
    if base_digest(facts.base, settings) != facts.base_digest:
        raise IntegrityError(
            f"head model {folder} was trained on {facts.base!r}, which has changed since; "
            "restore that model or train the heads again"
        )
    start = frozen_model(facts.base, device)
    if facts.adapter is not None:
        add_adapter(start.model, facts.adapter, facts.mode)
    return start


def _values(facts: HeadFacts) -> dict[str, Any]:
    adapter = None if facts.adapter is None else vars(facts.adapter)
    specs = [spec.to_dict() for spec in facts.specs]
    return {**vars(facts), "specs": specs, "adapter": adapter, "inputs": list(facts.inputs)}


def _facts(values: Mapping[str, Any]) -> HeadFacts:
    known = {name: values[name] for name in HeadFacts.__dataclass_fields__}
    adapter = known["adapter"]
    if adapter is not None:
        keys = adapter["keys"]
        adapter = AdapterRecipe(**{**adapter, "keys": None if keys is None else tuple(keys)})
    return HeadFacts(
        **{
            **known,
            "inputs": tuple(known["inputs"]),
            "specs": tuple(HeadSpec.load(each) for each in known["specs"]),
            "adapter": adapter,
        }
    )
