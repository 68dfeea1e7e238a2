from __future__ import annotations

import base64
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.registry import load_file
from tests.programs.tasks import SIGNATURE, TASK, rows, write_lines, write_task

PROGRAM = """
import dspy
from words import HINT

class Routing(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("text -> team", instructions=HINT)

    def forward(self, text):
        return self.step(text=text)

def program():
    return Routing()
"""
OWN = TASK.replace('signature = "signature.toml"', 'program = "program.py"').replace(
    "[data]", '[data]\ninputs = ["text"]'
)


def test_a_task_is_read_whole(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path / "routing"))

    assert (task.name, task.format, task.optimizer) == ("routing", "chat", "labeled_few_shot")
    assert task.optimizer_options == {"k": 4}
    assert task.signature is not None
    assert task.signature.reference == "route@1.0.0"
    assert [len(task.data.split(name).examples) for name in ("train", "test")] == [8, 12]
    assert isinstance(task.program(), dspy.Predict)
    assert set(task.files) == {
        "task.toml",
        "signature.toml",
        "data/train.jsonl",
        "data/validation.jsonl",
        "data/test.jsonl",
    }


def test_the_task_file_itself_may_be_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "routing")

    assert load_task(folder / "task.toml").folder == folder


def test_a_metric_of_the_task_is_called_by_its_path_in_the_folder(tmp_path: Path) -> None:
    text = TASK.replace('name = "per_field"', 'file = "own/metric.py"')
    folder = write_task(tmp_path / "routing", text)
    (folder / "own").mkdir()
    (folder / "own" / "metric.py").write_text(
        "def metric(example, prediction, trace=None):\n    1\n"
    )

    assert load_task(folder).metric.name == "own/metric.py"


def test_metric_and_place_work_together(tmp_path: Path) -> None:
    task = load_task(write_task(tmp_path / "routing"))
    example = task.data.test.examples[3]

    assert task.metric(example, dspy.Prediction(team="comet", urgent=True)) == 1.0
    assert task.metric.locate(example) == "data/test.jsonl:4"


def test_one_file_is_divided_by_the_seed(tmp_path: Path) -> None:
    folder = write_task(
        tmp_path / "routing",
        TASK.split("[data]")[0]
        + '[data]\nall = "data/all.jsonl"\n[data.split]\n'
        + "train = 0.2\nvalidation = 0.2\ntest = 0.6\nseed = 3\n",
    )
    write_lines(folder / "data" / "all.jsonl", rows("all", 50))

    data = load_task(folder).data

    assert [len(data.split(name).examples) for name in ("train", "validation", "test")] == [
        10,
        10,
        30,
    ]
    assert data.test.digest == load_task(folder).data.test.digest


def test_a_signature_may_be_a_reference(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "routing", TASK.replace('"signature.toml"', '"route"'))
    (folder / "route").mkdir()
    for version in ("1.2.0", "1.10.0"):
        text = SIGNATURE.replace("1.0.0", version)
        (folder / "route" / f"{version}.toml").write_text(text)

    task = load_task(folder)

    assert task.signature is not None
    assert task.signature.reference == "route@1.10.0"


def test_a_callers_settings_say_where_references_lead(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "elsewhere")
    folder = write_task(tmp_path / "routing", TASK.replace('"signature.toml"', '"route"'))
    place = settings.signatures / "route" / "1.0.0.toml"
    place.parent.mkdir(parents=True)
    (folder / "signature.toml").rename(place)

    assert load_task(folder, settings).signature == load_file(place)


def test_the_users_program_is_built_with_the_modules_beside_it(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "routing", OWN)
    (folder / "program.py").write_text(PROGRAM.replace(", instructions=HINT", ""))
    (folder / "words.py").write_text("HINT = 'be quick'\n")

    task = load_task(folder)

    assert task.signature is None
    assert [name for name, _ in task.program().named_predictors()] == ["step"]
    assert set(task.plan.sources()) == {"program.py", "words.py"}
    assert not list(folder.rglob("__pycache__"))


def test_tools_make_a_react_program(tmp_path: Path) -> None:
    text = TASK.replace("[metric]", 'module = "react"\n[tools]\nfunctions = ["look_up"]\n[metric]')
    folder = write_task(tmp_path / "routing", text)
    (folder / "tools.py").write_text(
        'def look_up(name: str) -> str:\n    """Look a team up."""\n    return name\n'
    )

    program = load_task(folder).program()

    assert isinstance(program, dspy.ReAct)
    assert set(program.tools) == {"look_up", "finish"}


def test_media_are_files_of_the_task_and_belong_to_it(tmp_path: Path) -> None:
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    signature = SIGNATURE.replace('type = "str"\nmin_length = 1', 'type = "Image"')
    folder = write_task(tmp_path / "routing", signature=signature)
    for split, count in (("train", 2), ("validation", 2), ("test", 2)):
        lines = rows(split, count)
        for line in lines:
            line["text"] = f"{line['text']}.png".replace(" ", "_")
            (folder / line["text"]).write_bytes(pixel + line["text"].encode())
        write_lines(folder / "data" / f"{split}.jsonl", lines)

    task = load_task(folder)

    assert isinstance(task.data.test.examples[0].text, dspy.Image)
    assert "test_message_0.png" in task.files


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "none.png"])
def test_media_outside_the_task_are_refused(tmp_path: Path, path: str) -> None:
    signature = SIGNATURE.replace('type = "str"\nmin_length = 1', 'type = "Image"')
    folder = write_task(tmp_path / "routing", signature=signature)
    for split in ("train", "validation", "test"):
        write_lines(
            folder / "data" / f"{split}.jsonl", [{"text": path, "team": "atlas", "urgent": True}]
        )
    (tmp_path / "secret.png").write_bytes(b"x")

    with pytest.raises(ToolkitError, match=r"data/train\.jsonl:1: "):
        load_task(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[metric]", "[metric", "is not valid TOML: .*line 5"),
        ("k = 4", "k = [4,", "is not valid TOML: what begins on line 15 does not end"),
        ('name = "routing"', 'nam = "routing"', "unknown key 'nam'; did you mean 'name'"),
        ('name = "routing"', 'name = "Routing 1"', "must be small letters"),
        ('name = "routing"', "name = 3", "name must be a text, got 3"),
        ('name = "routing"\n', "", "name is missing"),
        ('signature = "signature.toml"', "", "add signature = '...' or program"),
        ('"signature.toml"', '"other.toml"', "other.toml does not exist in"),
        ('"signature.toml"', '"../signature.toml"', "lies outside the task's folder"),
        ('"signature.toml"', '"clasify"', "did you mean 'classify'"),
        ("[metric]", 'module = "predikt"\n[metric]', "did you mean 'predict'"),
        ("[metric]", 'module = "react"\n[metric]', "needs tools"),
        ("[metric]", 'format = "jso"\n[metric]', "format 'jso' unknown; did you mean 'json'"),
        ("[metric]", "[generation]\nmax_token = 3\n[metric]", "did you mean 'max_tokens'"),
        ("[metric]", "[generation]\nmax_tokens = 0\n[metric]", "whole number of at least 1, got 0"),
        ("per_field", "per_feild", r"\[metric\]: .*did you mean 'per_field'"),
        ('name = "per_field"', 'fields = ["teem"]', "fields 'teem' unknown; did you mean 'team'"),
        ('name = "per_field"', 'file = "metric.py"', "metric.py does not exist in"),
        ("[data]", "[dat]", "unknown key 'dat'; did you mean 'data'"),
        ('train = "data/train.jsonl"\n', "", r"\[data\]: train is missing"),
        ("[data]", '[data]\nall = "data/train.jsonl"', "all and train exclude each other"),
        ("[data]", '[data]\ninputs = ["text"]', "already says the inputs"),
        ("[optimizer]", "[budgets]\n[optimizer]", "unknown key 'budgets'"),
        ('name = "labeled_few_shot"\n', "", r"\[optimizer\]: name is missing"),
    ],
)
def test_a_broken_task_file_says_what_where_and_what_to_do(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in TASK
    folder = write_task(tmp_path / "routing", TASK.replace(old, new, 1))

    with pytest.raises(ToolkitError, match=message) as raised:
        load_task(folder)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('name = "routing"', 'nam = "routing"', "task.toml:2: unknown key 'nam'"),
        ('name = "routing"', "name = 3", "task.toml:2: name must be a text"),
        ('"data/test.jsonl"', '"data/tst.jsonl"', "task.toml:11 [data]: data/tst.jsonl does not"),
        ("[data]", "[data]\nal = 3", "task.toml:9 [data]: unknown key 'al'"),
        ('train = "data/train.jsonl"\n', "", "task.toml:8 [data]: train is missing"),
        ("[metric]", 'format = "jso"\n[metric]', "task.toml:5: format 'jso' unknown"),
    ],
)
def test_a_defect_of_a_task_file_is_named_by_its_line(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    folder = write_task(tmp_path / "routing", TASK.replace(old, new, 1))

    with pytest.raises(ToolkitError) as raised:
        load_task(folder)

    assert str(raised.value).startswith(f"{folder}/{place}")


def test_a_wrong_line_of_data_is_named_by_its_whole_path(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "routing")
    (folder / "data" / "test.jsonl").write_text("{\n")

    with pytest.raises(InvalidInput) as raised:
        load_task(folder)

    assert str(raised.value).startswith(f"{folder}/data/test.jsonl:1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "x", "team": "atlas"}, r"data/test\.jsonl:1: .*'urgent' is missing"),
        ({"text": "x", "team": "atlas", "urgent": True, "tema": 1}, "'tema'.*did you mean 'team'"),
        ({"text": "x", "team": "venus", "urgent": True}, "'venus'.*'atlas' or 'comet'"),
        ({"text": "x", "team": "atlas", "urgent": "yes"}, "'urgent' is 'yes'"),
        ({"text": "", "team": "atlas", "urgent": True}, "'text' is ''"),
    ],
)
def test_a_line_that_does_not_fit_the_signature_is_named(
    tmp_path: Path, line: dict[str, object], message: str
) -> None:
    folder = write_task(tmp_path / "routing")
    write_lines(folder / "data" / "test.jsonl", [line])

    with pytest.raises(InvalidInput, match=message) as raised:
        load_task(folder)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"text": "b"}, r"train\.jsonl:2: field 'team' is missing"),
        (
            {"text": "b", "team": "x", "more": 1},
            r"train\.jsonl:2: field 'more' is not in the first",
        ),
    ],
)
def test_lines_for_a_program_of_ones_own_need_the_same_fields(
    tmp_path: Path, second: dict[str, object], message: str
) -> None:
    folder = write_task(tmp_path / "routing", OWN)
    (folder / "program.py").write_text("import dspy\ndef program(): return dspy.Predict('a->b')")
    write_lines(folder / "data" / "train.jsonl", [{"text": "a", "team": "x"}, second])

    with pytest.raises(InvalidInput, match=message):
        load_task(folder)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def program(:\n", r"program\.py:1: SyntaxError"),
        ("\nimport no_such_module\n", r"program\.py:2: ModuleNotFoundError: No module named"),
        ("def programm(): pass\n", "no function 'program'; did you mean 'programm'"),
        ("def program():\n    return 3\n", "returned int; it must return a dspy.Module"),
        ("def program():\n    return 1 / 0\n", r"program\.py:2: ZeroDivisionError"),
        ("import dspy\ndef program(): return dspy.Module()\n", "has no dspy.Predict"),
    ],
)
def test_a_broken_program_is_named_with_its_line(tmp_path: Path, code: str, message: str) -> None:
    folder = write_task(tmp_path / "routing", OWN)
    (folder / "program.py").write_text(code)

    with pytest.raises(InvalidInput, match=message) as raised:
        load_task(folder)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("train = 0.5\nvalidation = 0.5\ntest = 0.5", "sum to 1, got 0.5, 0.5, 0.5"),
        ("train = 0.5\nvalidation = 0.5", "above 0 and sum to 1"),
        ("train = 2", "train must be a number from 0 to 1, got 2"),
        ("seeds = 2", "did you mean 'seed'"),
    ],
)
def test_shares_that_do_not_divide_the_data_are_refused(
    tmp_path: Path, shares: str, message: str
) -> None:
    text = TASK.split("[data]")[0] + f'[data]\nall = "data/train.jsonl"\n[data.split]\n{shares}\n'

    with pytest.raises(InvalidInput, match=message):
        load_task(write_task(tmp_path / "routing", text))


def test_a_folder_without_a_task_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="dspy-tk init"):
        load_task(tmp_path)
    with pytest.raises(NotFound, match="does not exist"):
        load_task(tmp_path / "none")
