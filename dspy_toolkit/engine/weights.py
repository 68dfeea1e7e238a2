"""Loading a model with mlx-lm for the device it will run on. Runs on the engine thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.engine.device import Device
from dspy_toolkit.engine.low_rank import model_classes
from dspy_toolkit.engine.sizes import context_length, parameter_count, quantization
from dspy_toolkit.engine.source import (
    ModelBroken,
    check_tokenizer,
    one_line,
    read_config,
    read_header,
    weight_files,
)
from dspy_toolkit.errors import EngineError, NotFound

# Room for the cache of keys and values, activations and everything else on the machine.
_WEIGHTS_SHARE = 0.8


@dataclass(frozen=True)
class LoadedWeights:
    """A model in memory, without its tokenizer.

    Attributes:
        model: mlx-lm's module; touch it on the engine thread alone.
        context: most tokens of prompt and answer together, or None where the model names none.
        dtype: type of the arithmetic.
        expanded: whether quantized weights were expanded to plain ones.
    """

    model: Any
    context: int | None
    dtype: str
    expanded: bool


@dataclass(frozen=True)
class LoadedModel(LoadedWeights):
    """A model in memory, with mlx-lm's wrapper of its tokenizer."""

    tokenizer: Any


def load_model(folder: Path, adapter: Path | None, device: Device) -> LoadedModel:
    """Load weights, adapter and tokenizer, and evaluate them on this thread.

    Raises:
        ModelBroken: a file is missing, damaged, or does not fit the architecture.
        NotFound: no such adapter. EngineError: unknown architecture, or too little memory.
    """
    weights = load_weights(folder, adapter, device)
    return LoadedModel(**vars(weights), tokenizer=load_tokenizer(folder))


def load_weights(
    folder: Path, adapter: Path | None, device: Device, as_stored: bool = False
) -> LoadedWeights:
    """Load weights and adapter; see `load_model`.

    Args:
        as_stored: whether they stay in the type and packing they are stored in, whatever suits
            the device.
    """
    from mlx_lm import utils

    config = read_config(folder)
    files = weight_files(folder)
    check_tokenizer(folder)
    with mx.stream(device.kind):
        try:
            model, config = utils.load_model(folder, lazy=True, get_model_classes=model_classes)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise _unloadable(folder, config, error) from None
        expand = not as_stored and expands(config, files, device)
        if expand:
            # In the scales' own half precision the expanded weights would be rounded once more.
            model.set_dtype(mx.float32)
            utils.dequantize_model(model)
        if adapter is not None:
            _lay_over(model, adapter)
        wanted = None if as_stored else device.dtype
        if wanted is not None:
            model.set_dtype(getattr(mx, wanted))
        _require_memory(model, folder, device)
        model.eval()
        mx.eval(model.parameters())
    return LoadedWeights(
        model=model,
        context=context_length(config),
        dtype=wanted or _dtype(model),
        expanded=expand,
    )


def _lay_over(model: Any, adapter: Path) -> None:
    from mlx_lm.utils import load_adapters

    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (adapter / name).is_file():
            raise NotFound(
                f"adapter {adapter} has no {name}; give a folder that `mlx_lm.lora` wrote"
            )
    read_header(adapter / "adapters.safetensors")
    try:
        load_adapters(model, str(adapter))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelBroken(
            f"adapter {adapter} does not fit the model ({one_line(error)}); "
            "train it on this model or choose the one it was trained on"
        ) from None


def load_tokenizer(folder: Path) -> Any:
    """mlx-lm's wrapper of a model's tokenizer.

    Raises:
        ModelBroken: a file is damaged.
    """
    from mlx_lm import utils

    try:
        return utils.load_tokenizer(folder, eos_token_ids=read_config(folder).get("eos_token_id"))
    # The Rust tokenizer raises bare `Exception` for a damaged tokenizer.json.
    except Exception as error:  # noqa: BLE001
        raise ModelBroken(
            f"the tokenizer in {folder} cannot be read ({one_line(error)}); download it again"
        ) from None


def _unloadable(folder: Path, config: dict[str, Any], error: Exception) -> EngineError:
    text = one_line(error)
    if "not supported" in text and "Model type" in text:
        return EngineError(
            f"model {folder} is a {config['model_type']!r}, which mlx-lm does not know; "
            "upgrade mlx-lm or choose another model"
        )
    if "custom module" in text:
        return EngineError(
            f"model {folder} wants to run its own Python file ({config.get('model_file')}), "
            "which is never done; choose a model of a known architecture"
        )
    return ModelBroken(
        f"the weights in {folder} do not fit its config.json ({text}); download it again"
    )


def expands(config: dict[str, Any], files: list[Path], device: Device) -> bool:
    """Whether quantized weights are expanded to float32 on this device.

    On a CPU a product with expanded weights is about 80 times faster, so they are wherever they
    fit; where they do not, their scales become float32, which is 30 times faster than float16.
    """
    if quantization(config) is None or not device.slow_quantized:
        return False
    return 4 * parameter_count(files, config) <= _WEIGHTS_SHARE * device.memory_bytes


def _require_memory(model: Any, folder: Path, device: Device) -> None:
    from mlx.utils import tree_flatten

    need = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    if need > device.memory_bytes:
        raise EngineError(
            f"model {folder} needs {need / 1e9:.1f} GB for its weights and {device.name} offers "
            f"{device.memory_bytes / 1e9:.1f} GB; choose a smaller or more quantized one"
        )


def _dtype(model: Any) -> str:
    from mlx.utils import tree_flatten

    for _, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            return str(array.dtype).removeprefix("mlx.core.")
    return "float32"
