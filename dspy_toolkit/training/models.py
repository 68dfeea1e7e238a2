"""The model a recipe starts from: loaded or new, with all weights or an adapter to be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dspy_toolkit.engine.device import Device, choose_device, limit_memory
from dspy_toolkit.engine.sizes import context_length, quantization
from dspy_toolkit.engine.source import (
    ModelBroken,
    check_tokenizer,
    download,
    find_source,
    one_line,
    read_config,
)
from dspy_toolkit.engine.weights import load_model
from dspy_toolkit.errors import NotFound, nearest, reject_unknown_keys
from dspy_toolkit.training.attention import in_blocks
from dspy_toolkit.training.cores import one_blas_thread
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.recipe import AdapterRecipe, ModelRecipe, Recipe
from dspy_toolkit.training.tables import InvalidRecipe

_ALSO_IN_CONFIG = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class StartingModel:
    """A model ready to be trained.

    Attributes:
        model: mlx-lm's module; what is not frozen is trained.
        tokenizer: mlx-lm's wrapper.
        config: what belongs into its `config.json`.
        folder: where its tokenizer and other files lie.
        device: where it runs.
        context: longest sequence in tokens, or None.
    """

    model: Any
    tokenizer: Any
    config: dict[str, Any]
    folder: Path
    device: Device
    context: int | None

    @property
    def vocabulary(self) -> int:
        """Number of rows of the embedding."""
        return int(self.config.get("vocab_size") or len(self.tokenizer.get_vocab()))

    @property
    def parameters(self) -> dict[str, int]:
        """How many numbers the model has, and how many of them are trained."""
        count = {"all": self.model.parameters(), "trained": self.model.trainable_parameters()}
        return {
            name: sum(array.size for _, array in tree_flatten(tree)) for name, tree in count.items()
        }


def start_model(recipe: Recipe) -> StartingModel:
    """Load or make the model of a recipe and choose what is trained.

    New weights and adapters are drawn from the recipe's seed.

    Raises:
        InvalidRecipe: configuration, adapter or sequence length do not fit the model.
        NotFound, EngineError: the base model cannot be had; see `engine.weights.load_model`.
    """
    device = choose_device(recipe.model.device, recipe.model.dtype)
    limit_memory(device)
    mx.random.seed(mlx_seed(recipe.seed, 0))
    with mx.stream(device.kind):
        opened = (
            _new(recipe.model, recipe.data.sequence_length, device)
            if recipe.model.config is not None
            else _loaded(recipe.model, device)
        )
        _require_context(opened.context, recipe.data.sequence_length)
        if recipe.model.mode != "full":
            add_adapter(opened.model, recipe.adapter or AdapterRecipe(), recipe.model.mode)
        elif quantization(opened.config):
            raise InvalidRecipe(
                f"[model] base {recipe.model.base!r} is quantized, so its weights cannot be "
                'trained; set mode = "lora", or take an unquantized model'
            )
        mx.eval(opened.model.parameters())
    return opened


def frozen_model(reference: str, device: Device) -> StartingModel:
    """Load a model that is not trained, a teacher or a backbone."""
    found = find_source(reference, fetch=download)
    loaded = load_model(found.folder, None, device)
    loaded.model.freeze()
    return StartingModel(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        config=read_config(found.folder),
        folder=found.folder,
        device=device,
        context=loaded.context,
    )


@contextmanager
def on_cpu(start: StartingModel, workers: int) -> Iterator[None]:
    """Train fast on a CPU while the block runs; elsewhere nothing is changed."""
    with ExitStack() as ways:
        if start.device.name == "cpu":
            ways.enter_context(in_blocks(start.model))
            if workers > 1:
                ways.enter_context(one_blas_thread())
        yield


def add_adapter(model: Any, recipe: AdapterRecipe, mode: str) -> None:
    """Freeze a model and lay a LoRA or DoRA adapter over it.

    Raises:
        InvalidRecipe: there are fewer layers than asked for, a key names no module of theirs, or
            the rank is above what any of their matrices has.
    """
    from mlx_lm.tuner.utils import linear_to_lora_layers

    blocks = len(model.layers)
    if recipe.layers is not None and recipe.layers > blocks:
        raise InvalidRecipe(f"[adapter] layers is {recipe.layers}, but the model has {blocks}")
    outputs = {
        name: int(module.weight.shape[-2:][0])
        for name, module in model.layers[-1].named_modules()
        if "weight" in module
    }
    for key in recipe.keys or ():
        if key not in outputs:
            raise InvalidRecipe(f"[adapter] keys: {key!r} is no module; {nearest(key, outputs)}")
    most = max(outputs[key] for key in recipe.keys or outputs)
    if recipe.rank > most:
        raise InvalidRecipe(
            f"[adapter] rank is {recipe.rank}, but the widest matrix it adapts has {most} outputs; "
            "8 to 64 are usual"
        )
    model.freeze()
    linear_to_lora_layers(
        model, recipe.layers or blocks, adapter_parameters(recipe), use_dora=mode == "dora"
    )


def adapter_parameters(recipe: AdapterRecipe) -> dict[str, Any]:
    """An adapter's `lora_parameters`, as mlx-lm's `adapter_config.json` names them."""
    keys = {} if recipe.keys is None else {"keys": list(recipe.keys)}
    return {"rank": recipe.rank, "scale": recipe.scale, "dropout": recipe.dropout, **keys}


def _loaded(recipe: ModelRecipe, device: Device) -> StartingModel:
    opened = frozen_model(recipe.base or "", device)
    opened.model.unfreeze()
    return opened


def _new(recipe: ModelRecipe, sequence_length: int, device: Device) -> StartingModel:
    from mlx_lm.models.llama import Model, ModelArgs

    assert recipe.tokenizer is not None
    assert recipe.config is not None
    if not recipe.tokenizer.is_dir():
        raise NotFound(f"[model] tokenizer: there is no folder {recipe.tokenizer}; check the path")
    check_tokenizer(recipe.tokenizer)
    tokenizer = _tokenizer(recipe.tokenizer)
    config = _complete(recipe.config, tokenizer, sequence_length)
    try:
        model = Model(ModelArgs.from_dict(config))
        mx.eval(model(mx.zeros((1, 2), mx.int32)))
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise InvalidRecipe(f"[model.config] makes no model: {error}") from None
    if device.dtype is not None:
        model.set_dtype(getattr(mx, device.dtype))
    return StartingModel(model, tokenizer, config, recipe.tokenizer, device, context_length(config))


def _tokenizer(folder: Path) -> Any:
    from mlx_lm.utils import load_tokenizer

    try:
        return load_tokenizer(folder)
    # The Rust tokenizer raises bare `Exception` for a damaged tokenizer.json.
    except Exception as error:  # noqa: BLE001
        raise ModelBroken(f"the tokenizer in {folder} cannot be read ({one_line(error)})") from None


def _complete(given: Mapping[str, Any], tokenizer: Any, sequence_length: int) -> dict[str, Any]:
    from mlx_lm.models.llama import ModelArgs

    keys = [each.name for each in dataclasses.fields(ModelArgs)]
    reject_unknown_keys(given, (*keys, *_ALSO_IN_CONFIG), "[model.config]")
    words = max(tokenizer.get_vocab().values()) + 1
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": words,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": True,
        "eos_token_id": int(tokenizer.eos_token_id),
        **given,
    }
    if config["model_type"] != "llama":
        raise InvalidRecipe(
            f"[model.config] model_type must be 'llama', got {config['model_type']!r}; "
            "to train another architecture give a folder of it as base"
        )
    if config["vocab_size"] < words:
        raise InvalidRecipe(
            f"[model.config] vocab_size is {config['vocab_size']}, but the tokenizer has {words}"
        )
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"):
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidRecipe(
                f"[model.config] {key} must be a whole number of at least 1, got {value!r}"
            )
    return config


def _require_context(context: int | None, sequence_length: int) -> None:
    if context is not None and sequence_length > context:
        raise InvalidRecipe(
            f"[data] sequence_length is {sequence_length}, but the model reads at most {context} "
            "tokens; lower it or choose another model"
        )
