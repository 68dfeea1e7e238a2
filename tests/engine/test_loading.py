from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from dspy import lm15
from mlx.utils import tree_flatten
from mlx_lm.generate import stream_generate
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.device import Device, choose_device
from dspy_toolkit.engine.weights import load_model
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, NotFound
from dspy_toolkit.events import Event, ModelLoaded, subscribed
from tests.conformance.engine_contract import ask
from tests.engine.tiny import write_model

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

TOKENS = 16
PATIENCE_S = 30.0
LORA = {"rank": 4, "scale": 10.0, "dropout": 0.0}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "four-bit", bits=4)


@pytest.fixture(scope="module")
def adapter(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    model = load(str(model_folder))[0]
    model.freeze()
    linear_to_lora_layers(model, 2, LORA)
    key = mx.random.key(1)
    weights = {
        name: 0.3 * mx.random.normal(value.shape, key=key)
        for name, value in tree_flatten(model.trainable_parameters())
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": LORA}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def say(engine: MlxEngine, text: str = "Where is it?") -> list[int]:
    response = engine.complete(ask(text, max_tokens=TOKENS, logprobs=0))
    return [score.token_id or 0 for score in response.logprobs or ()]


def mlx_lm_says(folder: Path, dtype: mx.Dtype, adapter: Path | None = None) -> list[int]:
    model, tokenizer = load(str(folder), adapter_path=str(adapter) if adapter else None)[:2]
    model.set_dtype(dtype)
    turns = [{"role": "user", "content": "Where is it?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    return [s.token for s in stream_generate(model, tokenizer, prompt, max_tokens=TOKENS)]


def opened(folder: Path, settings: Settings, **options: Any) -> MlxEngine:
    return open_engine(str(folder), EngineOptions(**options), settings)


def test_on_a_cpu_half_precision_weights_run_in_float32(engine: MlxEngine) -> None:
    assert (engine.facts.device, engine.facts.dtype) == ("cpu", "float32")


def test_another_number_type_can_be_asked_for(model_folder: Path, settings: Settings) -> None:
    engine = opened(model_folder, settings, dtype="bfloat16")

    assert engine.facts.dtype == "bfloat16"
    assert say(engine) == mlx_lm_says(model_folder, mx.bfloat16)
    engine.close()


def test_quantized_weights_are_expanded_on_a_cpu_and_answer_alike(
    quantized: Path, settings: Settings
) -> None:
    engine = opened(quantized, settings)

    assert engine.facts.expanded
    assert say(engine) == mlx_lm_says(quantized, mx.float32)
    engine.close()


def test_quantized_weights_that_do_not_fit_expanded_keep_their_packing_with_float32_scales(
    quantized: Path,
) -> None:
    small = Device("cpu", mx.cpu, "float32", memory_bytes=300_000)
    model = load_model(quantized, None, small)
    packed = model.model.model.layers[0].self_attn.q_proj

    assert not model.expanded
    assert (packed.weight.dtype, packed.scales.dtype) == (mx.uint32, mx.float32)


def test_a_model_larger_than_the_memory_says_by_how_much(model_folder: Path) -> None:
    tiny = Device("cpu", mx.cpu, "float32", memory_bytes=100_000)

    with pytest.raises(EngineError, match=r"needs 0\.0 GB .* choose a smaller"):
        load_model(model_folder, None, tiny)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if mx.metal.is_available() or mx.cuda.is_available():
        pytest.skip("this machine has a GPU")

    with pytest.raises(EngineError, match="MLX finds none here; use device 'auto'"):
        choose_device("gpu", "auto")


def test_an_adapter_changes_the_answers_as_mlx_lm_says(
    model_folder: Path, adapter: Path, engine: MlxEngine, settings: Settings
) -> None:
    adapted = opened(model_folder, settings, adapter=adapter)

    assert say(adapted) == mlx_lm_says(model_folder, mx.float32, adapter)
    assert say(adapted) != say(engine)
    assert adapted.model_string != engine.model_string
    adapted.close()


def test_an_adapter_lies_over_quantized_weights(
    quantized: Path, adapter: Path, settings: Settings
) -> None:
    adapted = opened(quantized, settings, adapter=adapter)

    assert say(adapted) == mlx_lm_says(quantized, mx.float32, adapter)
    adapted.close()


def test_a_missing_adapter_is_not_found(model_folder: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match=r"has no adapter_config.json; give a folder"):
        opened(model_folder, settings, adapter=Path("/nowhere"))


def test_an_adapter_of_another_model_is_refused(
    model_folder: Path, adapter: Path, tmp_path: Path, settings: Settings
) -> None:
    wrong = Path(shutil.copytree(adapter, tmp_path / "wrong"))
    mx.save_safetensors(
        str(wrong / "adapters.safetensors"), {"model.layers.9.self_attn.q_proj.lora_a": mx.ones(3)}
    )

    with pytest.raises(EngineError, match="does not fit the model") as failure:
        opened(model_folder, settings, adapter=wrong)

    assert "\n" not in str(failure.value)


def test_opening_a_model_twice_shares_its_weights(model_folder: Path, settings: Settings) -> None:
    heard: list[Event] = []
    with subscribed(heard.append):
        first = opened(model_folder, settings, rows=5)
        second = opened(model_folder, settings, rows=5, min_p=0.5)

    assert [event.model for event in heard if isinstance(event, ModelLoaded)] == [
        first.model_string
    ]
    first.close()
    assert say(second)
    with pytest.raises(lm15.ConfigurationError, match="closed"):
        say(first)
    assert second.alive
    assert not first.alive
    second.close()


def test_an_engine_nobody_holds_gives_its_model_back(
    model_folder: Path, settings: Settings
) -> None:
    engine = opened(model_folder, settings, rows=6)
    worker = engine._worker
    del engine
    gc.collect()
    worker._thread.join(PATIENCE_S)

    assert not worker.alive


def test_the_collector_may_run_while_a_model_is_being_opened(
    model_folder: Path, settings: Settings
) -> None:
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for rows in (7, 8):
            forgotten = opened(model_folder, settings, rows=rows)
            forgotten.itself = forgotten  # type: ignore[attr-defined]
            del forgotten
        last = opened(model_folder, settings, rows=9)
    finally:
        gc.set_threshold(*thresholds)

    assert say(last)
    last.close()


def test_generation_options_are_heard_where_a_call_leaves_them_open(
    model_folder: Path, settings: Settings, engine: MlxEngine
) -> None:
    hot = opened(model_folder, settings, temperature=2.0, max_tokens=7)
    answers = [hot.complete(ask("Hello")) for _ in range(3)]

    assert len({answer.text for answer in answers}) > 1
    assert {answer.usage.output_tokens for answer in answers} == {7}
    assert (
        hot.complete(ask("Hello", temperature=0.0)).text
        == engine.complete(ask("Hello", max_tokens=7)).text
    )
    hot.close()


def test_state_that_leads_to_changed_weights_is_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    folder = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    engine = open_engine(str(folder), EngineOptions(device="cpu"))
    state = engine.dump_state()
    engine.close()
    write_model(folder, template="{{ messages[0]['content'] }}")

    with pytest.raises(IntegrityError, match="its files or number type differ; restore"):
        type(engine).load_state(state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("device", "tpu"),
        ("dtype", "int8"),
        ("rows", 0),
        ("context", -1),
        ("max_tokens", 1.5),
        ("temperature", 3),
        ("top_p", "high"),
        ("top_k", -1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("template", ["x"]),
        ("rows", True),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=f"engine option {option} must be"):
        EngineOptions(**{option: value})


def test_options_survive_being_saved(tmp_path: Path) -> None:
    options = EngineOptions(adapter=tmp_path, min_p=0.1, template={"enable_thinking": False})

    assert EngineOptions.load(json.loads(json.dumps(options.dump()))) == options
    assert EngineOptions().dump() == {}


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'min_p'"):
        EngineOptions.load({"minp": 0.1})
