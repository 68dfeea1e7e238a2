from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import mlx.core as mx
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, NotFound
from dspy_toolkit.programs.artifact import Artifact, ask, load_artifact, save_artifact
from dspy_toolkit.programs.formats import FORMATS, prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.modules import (
    GIVEN,
    ModulePlan,
    build_module,
    plan_of,
    required_inputs,
)
from dspy_toolkit.programs.nearest import Nearest
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.programs.speaking import silenced
from dspy_toolkit.registry import FieldRecord, ObjectRecord, SignatureRecord
from dspy_toolkit.store.manifest import write_manifest
from tests.engine.tiny import write_model
from tests.programs.tasks import chat, scripted_lm

RECORD = SignatureRecord(
    name="order",
    version="1.0.0",
    instructions="Read the order.",
    inputs=(FieldRecord("text", "str", min_length=1),),
    outputs=(FieldRecord("team", "Literal['atlas', 'comet']"), FieldRecord("lines", "list[Line]")),
    objects=(ObjectRecord("Line", (FieldRecord("name", "str"), FieldRecord("count", "int"))),),
)
FACTS: dict[str, Any] = {"run": "r1", "seed": 0, "prompt_format": "chat", "inputs": ["text"]}
DEMO = {"text": "two cups", "team": "atlas", "lines": [{"name": "cup", "count": 2}]}


def answer(request: str) -> str:
    return chat(team="atlas", lines='[{"name": "cup", "count": 1}]')


def saved(folder: Path, kind: str = "predict") -> Artifact:
    program = build_module(kind, dspy_signature(RECORD))
    program.predictors()[0].demos = [dspy.Example(**DEMO)]
    program.set_lm(scripted_lm(answer))
    return save_artifact(folder, program, ModulePlan(kind, RECORD), scripted_lm(answer), FACTS)


def test_a_saved_program_comes_back_with_demos_and_model(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    lm = scripted_lm(answer)
    artifact = load_artifact(tmp_path / "a")

    outputs = artifact.run(artifact.program(lm), {"text": "one cup"})

    assert outputs == {"team": "atlas", "lines": [{"name": "cup", "count": 1}]}
    assert "two cups" in lm.engine.requests[0]
    assert artifact.signature == RECORD


def test_the_saved_prompt_is_the_one_of_the_program_that_was_saved(tmp_path: Path) -> None:
    program = build_module("chain_of_thought", dspy_signature(RECORD))
    program.predictors()[0].demos = [dspy.Example(**DEMO, reasoning="Two are asked for.")]
    plan = ModulePlan("chain_of_thought", RECORD)
    artifact = save_artifact(tmp_path / "a", program, plan, scripted_lm(answer), FACTS)

    def said(request: str) -> str:
        return chat(reasoning="One.", team="comet", lines="[]")

    first, second = scripted_lm(said), scripted_lm(said)
    with dspy.context(lm=first):
        program(text="one cup")
    artifact.program(second)(text="one cup")

    assert first.engine.requests == second.engine.requests


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("kind", ["predict", "chain_of_thought"])
def test_a_program_speaks_the_format_it_was_compiled_with_wherever_it_is_called(
    tmp_path: Path, name: str, kind: str
) -> None:
    bare = build_module(kind, dspy_signature(RECORD))
    facts = {**FACTS, "prompt_format": name}
    plan = ModulePlan(kind, RECORD)
    artifact = save_artifact(tmp_path / "a", bare, plan, scripted_lm(answer), facts)
    lms = [scripted_lm(lambda request: "hm") for _ in range(5)]

    def asked(lm: LocalLM, call: Callable[[dspy.Module], Any]) -> Any:
        with pytest.raises((dspy.AdapterParseError, EngineError)):
            call(artifact.program(lm))
        return lm.engine.requests

    with dspy.context(lm=lms[0], adapter=prompt_format(name)):
        with pytest.raises(dspy.AdapterParseError):
            bare(text="one cup")
        wanted = lms[0].engine.requests

        assert asked(lms[1], lambda program: program(text="one cup")) == wanted
    assert asked(lms[2], lambda program: program.deepcopy()(text="one cup")) == wanted
    assert asked(lms[3], lambda program: artifact.run(program, {"text": "one cup"})) == wanted
    assert asked(lms[4], lambda program: asyncio.run(program.acall(text="one cup"))) == wanted


def test_an_answer_that_breaks_a_constraint_is_refused_wherever_the_program_is_called(
    tmp_path: Path,
) -> None:
    record = replace(RECORD, outputs=(FieldRecord("count", "int", maximum=3),))
    facts = {**FACTS, "prompt_format": "chat_only"}
    program = build_module("predict", dspy_signature(record))
    plan = ModulePlan("predict", record)
    artifact = save_artifact(tmp_path / "a", program, plan, scripted_lm(answer), facts)

    with pytest.raises(dspy.AdapterParseError, match="less than or equal to 3"):
        artifact.program(scripted_lm(lambda request: chat(count=9)))(text="one cup")


def test_a_loaded_program_is_saved_and_planned_like_any_other(tmp_path: Path) -> None:
    artifact = saved(tmp_path / "a")
    loaded = artifact.program(scripted_lm(answer))
    loaded.set_lm(None)
    loaded.save(tmp_path / "again.json")

    assert isinstance(loaded, dspy.Predict)
    assert type(loaded).__name__ == "Predict"
    assert plan_of(loaded) == ModulePlan("predict", RECORD)
    assert (tmp_path / "again.json").read_bytes() == (artifact.folder / "program.json").read_bytes()
    assert type(silenced(loaded)) is dspy.Predict


def test_plain_dspy_loads_the_program_without_the_toolkit(tmp_path: Path) -> None:
    artifact = saved(tmp_path / "a", "chain_of_thought")
    code = (
        "import sys, dspy\n"
        "program = dspy.ChainOfThought('text -> team, lines')\n"
        f"program.load({str(artifact.folder / 'program.json')!r})\n"
        "assert program.predictors()[0].demos[0]['text'] == 'two cups'\n"
        "assert program.predictors()[0].signature.instructions == 'Read the order.'\n"
        "assert not any(name.startswith('dspy_toolkit') for name in sys.modules)\n"
        "print('loaded')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert done.stdout.strip() == "loaded", done.stderr


def test_no_model_lies_in_the_program_file(tmp_path: Path) -> None:
    state = json.loads((saved(tmp_path / "a").folder / "program.json").read_text())

    assert state["lm"] is None


def test_the_program_that_is_saved_stays_as_it_was(tmp_path: Path) -> None:
    program = build_module("predict", dspy_signature(RECORD))
    lm = scripted_lm(answer)
    program.set_lm(lm)

    save_artifact(tmp_path / "a", program, ModulePlan("predict", RECORD), lm, FACTS)

    assert program.get_lm() is lm


@pytest.mark.parametrize("name", ["program.json", "signature.toml"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "a").folder
    (folder / name).write_text((folder / name).read_text().replace("atlas", "comet"))

    with pytest.raises(IntegrityError, match=f"{name} was changed"):
        load_artifact(folder)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seed": 1}))

    with pytest.raises(IntegrityError, match=r"manifest\.json was changed"):
        load_artifact(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"files": 3}'])
def test_a_damaged_manifest_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    folder = saved(tmp_path / "a").folder
    (folder / "manifest.json").write_text(content)

    with pytest.raises(IntegrityError) as raised:
        load_artifact(folder)

    assert "\n" not in str(raised.value)


def test_missing_and_added_files_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a").folder
    (folder / "extra.pkl").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"extra\.pkl that its manifest does not name"):
        load_artifact(folder)
    (folder / "extra.pkl").unlink()
    (folder / "program.json").unlink()

    with pytest.raises(IntegrityError, match=r"lacks its file program\.json"):
        load_artifact(folder)


def test_a_folder_that_is_no_artifact_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is no artifact"):
        load_artifact(tmp_path)
    with pytest.raises(NotFound, match="does not exist"):
        load_artifact(tmp_path / "none")


def test_an_artifact_of_a_newer_format_says_to_upgrade(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "format": 2})

    with pytest.raises(InvalidInput, match="newer toolkit"):
        load_artifact(folder)


def test_an_artifact_never_overwrites_a_folder(tmp_path: Path) -> None:
    saved(tmp_path / "a")

    with pytest.raises(InvalidInput, match="already exists"):
        saved(tmp_path / "a")
    assert load_artifact(tmp_path / "a").manifest["run"] == "r1"


def test_what_json_cannot_hold_leaves_nothing_behind(tmp_path: Path) -> None:
    program = build_module("predict", dspy_signature(RECORD))
    program.demos = [dspy.Example(text=object(), team="atlas")]

    with pytest.raises(InvalidInput, match="cannot be saved as JSON"):
        save_artifact(
            tmp_path / "a", program, ModulePlan("predict", RECORD), scripted_lm(answer), FACTS
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "'text' is missing"),
        ({"text": ""}, "'text' is ''"),
        ({"txet": "x", "text": "y"}, "'txet'.*did you mean 'text'"),
        ({"text": 3}, "'text' is 3"),
    ],
)
def test_inputs_are_checked_before_the_model_is_asked(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    lm = scripted_lm(answer)

    with pytest.raises(InvalidInput, match=message):
        ask(saved(tmp_path / "a").folder, values, lm=lm)
    assert lm.engine.requests == []


@pytest.mark.parametrize("kind", ["predict", "chain_of_thought"])
def test_a_program_called_without_an_input_names_it(tmp_path: Path, kind: str) -> None:
    lm = scripted_lm(answer)
    program = saved(tmp_path / "a", kind).program(lm)

    with pytest.raises(InvalidInput, match="input 'text' is missing"):
        program()
    with pytest.raises(InvalidInput, match="input 'text' is missing"):
        program.deepcopy()(txt="one cup")
    with pytest.raises(InvalidInput, match="input 'text' is missing"):
        asyncio.run(program.acall())
    assert lm.engine.requests == []


def test_inputs_with_a_default_and_those_that_may_be_none_can_be_left_out() -> None:
    class Asked(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
        """Answer."""

        text: str = dspy.InputField()
        tone: str = dspy.InputField(default="kind")
        hint: str | None = dspy.InputField()
        answer: str = dspy.OutputField()

    class Own(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(Asked)

        def forward(self, text: str = "") -> dspy.Prediction:
            return self.ask(text=text)

    for made in (dspy.Predict(Asked), dspy.ChainOfThought(Asked), Nearest(dspy.Predict(Asked), 1)):
        assert required_inputs(made) == ("text",)
    # Its own code says what it needs.
    assert required_inputs(Own()) == ()


def test_an_answer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"no usable answer: AdapterParseError.*larger --model"
    ) as raised:
        ask(saved(tmp_path / "a").folder, {"text": "x"}, lm=scripted_lm(lambda request: "hm"))

    assert "\n" not in str(raised.value)


def test_a_model_made_in_python_must_be_given_again(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="was compiled with a model made in Python"):
        ask(saved(tmp_path / "a").folder, {"text": "x"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


def adapter_of(model: Path, folder: Path) -> Path:
    """A full fine-tune of the model: its own weights, scaled."""
    weights = mx.load(str(model / "model.safetensors"))
    folder.mkdir()
    config = {"fine_tune_type": "full", "num_layers": -1, "lora_parameters": {}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert isinstance(weights, dict)
    scaled = {name: value * 1.5 for name, value in weights.items()}
    mx.save_safetensors(str(folder / "adapters.safetensors"), scaled)
    return folder


def test_an_artifact_opens_its_model_or_the_one_that_is_named(tmp_path: Path, model: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    program = build_module("predict", dspy_signature(RECORD))
    compiled_on = local_lm(str(model), max_tokens=9, settings=settings)
    facts = {**FACTS, "seed": 4}
    plan = ModulePlan("predict", RECORD)
    artifact = save_artifact(tmp_path / "a", program, plan, compiled_on, facts)
    tuned = adapter_of(model, tmp_path / "tuned")

    opened = [
        artifact.language_model(settings=settings),
        artifact.language_model(str(model), settings=settings),
        artifact.language_model(adapter=tuned, settings=settings),
        artifact.language_model(str(model), tuned, settings),
    ]
    names = [lm.model for lm in opened]
    for lm in (compiled_on, *opened):
        lm.release()

    assert names[0] == names[1] == compiled_on.model
    assert names[2] == names[3] != names[0]
    assert {(lm.seed, lm.kwargs["max_tokens"]) for lm in opened} == {(4, 9)}


def test_a_model_and_a_name_for_another_exclude_each_other(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a").folder

    for other in ({"model": "embedded"}, {"adapter": tmp_path}):
        with pytest.raises(InvalidInput, match="leave out model and adapter, or lm"):
            ask(folder, {"text": "x"}, lm=scripted_lm(answer), **other)
    with pytest.raises(InvalidInput, match="was compiled with a model made in Python"):
        ask(folder, {"text": "x"}, adapter=tmp_path)


class Pair(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("text -> draft")
        self.second = dspy.Predict("draft -> team")

    def forward(self, text: str) -> dspy.Prediction:
        return self.second(draft=self.first(text=text).draft)


def test_a_program_made_in_python_loads_into_a_new_one(tmp_path: Path) -> None:
    program = Pair()
    program.second.demos = [dspy.Example(draft="d", team="atlas")]
    artifact = save_artifact(tmp_path / "a", program, ModulePlan(GIVEN), scripted_lm(answer), FACTS)
    lm = scripted_lm(lambda request: chat(draft="d") if "text" in request else chat(team="comet"))

    assert artifact.program(lm, into=Pair()).second.demos[0]["team"] == "atlas"
    with pytest.raises(InvalidInput, match="give a new one"):
        artifact.program(lm)
    with pytest.raises(InvalidInput, match="does not fit the program"):
        artifact.program(lm, into=dspy.ChainOfThought("a -> b"))
    with pytest.raises(InvalidInput, match="unknown input 'txt'; did you mean 'text'"):
        artifact.check({"txt": "x"})
    with pytest.raises(InvalidInput, match="'text' is missing"):
        artifact.check({})


def test_source_of_a_program_travels_and_runs_from_the_artifact(tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    (task / "words.py").write_text("SIGNATURE = 'text -> team'\n")
    (task / "program.py").write_text(
        "import dspy\nimport words\ndef program(): return dspy.Predict(words.SIGNATURE)\n"
    )
    plan = ModulePlan("program", folder=task, program="program.py")
    save_artifact(tmp_path / "a", plan.build(), plan, scripted_lm(answer), FACTS)
    (task / "words.py").unlink()

    outputs = ask(tmp_path / "a", {"text": "x"}, lm=scripted_lm(lambda request: chat(team="atlas")))

    assert outputs == {"team": "atlas"}
    assert load_artifact(tmp_path / "a").manifest["run"] == "r1"
