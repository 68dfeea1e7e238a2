from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dspy_toolkit.cli.main import app
from dspy_toolkit.compiler.report import SUMMARY
from dspy_toolkit.errors import ToolkitError
from tests.engine.tiny import write_model
from tests.programs.tasks import TASK, rows, write_lines, write_task

# A random model says nothing sensible, but it is loaded, asked and read like any other.
SHORT = TASK.replace("[metric]", 'format = "chat_only"\n[generation]\nmax_tokens = 4\n\n[metric]')

# A random model gives no answer that could be read, so this program tells how it was asked.
PROGRAM = """
import dspy

class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("text: str -> team: str")

    def forward(self, text):
        return dspy.Prediction(demos=len(self.step.demos))

def program():
    return Program()
"""
METRIC = """
def metric(example, prediction, trace=None):
    return float(prediction.demos == 0)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model") / "tiny")
    for name, key in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, key: 4096}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSPY_TK_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "routing"
    write_task(folder, SHORT.replace("k = 4", "k = 1"))
    for split in ("train", "validation", "test"):
        write_lines(folder / "data" / f"{split}.jsonl", rows(split, 3))
    return folder


@pytest.fixture(scope="module")
def artifact(task: Path, model: Path) -> str:
    return str(printed("compile", task, "--model", model)["artifact"])


def invoke(*arguments: object, **settings: Any) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], **settings)


def printed(*arguments: object, **settings: Any) -> dict[str, Any]:
    result = invoke(*arguments, "--json", **settings)
    assert result.exit_code == 0, result.exception
    return dict(json.loads(result.stdout))


def refused(*arguments: object, **settings: Any) -> str:
    result = invoke(*arguments, **settings)
    assert isinstance(result.exception, ToolkitError), result.output
    assert "\n" not in str(result.exception)
    assert result.stdout == ""
    return str(result.exception)


def test_compile_prints_one_object_with_the_promised_keys(task: Path, model: Path) -> None:
    report = printed("compile", task, "--model", model, "--seed", 5, "--option", "k=2")

    assert tuple(report) == SUMMARY
    assert (report["seed"], report["model"], report["task"]) == (5, str(model), "routing")
    assert report["baseline"]["n"] == report["compiled"]["n"] == 3
    assert report["calls"]["made"] + report["calls"]["cached"] == 6
    assert Path(report["artifact"], "manifest.json").is_file()


def test_answers_that_could_not_be_used_are_counted_beside_the_json(
    task: Path, model: Path
) -> None:
    result = invoke("compile", task, "--model", model, "--json", env={"COLUMNS": "300"})

    assert json.loads(result.stdout)["compiled"]["score"] == 0
    assert "after: 3 of 3 answers could not be used; first: AdapterParseError" in result.stderr
    assert "larger model with --model" in result.stderr


def test_compile_prints_a_table_for_people(task: Path, model: Path) -> None:
    result = invoke("compile", task, "--model", model, env={"COLUMNS": "200"})

    assert result.exit_code == 0, result.exception
    for words in (
        "score before",
        "score after",
        "difference",
        "model calls",
        "artifact",
        "held-out",
    ):
        assert words in result.stdout


def test_a_compiled_program_is_scored_and_asked(task: Path, model: Path, tmp_path: Path) -> None:
    printed("compile", task, "--model", model, "--output", tmp_path / "out")

    score = printed("evaluate", tmp_path / "out", "--split", "validation")

    assert (score["task"], score["n"], score["artifact"]) == ("routing", 3, str(tmp_path / "out"))
    assert score["interval"][0] <= score["score"] <= score["interval"][1]
    asked = refused("run", tmp_path / "out", "--input", '{"text": "hello"}')
    assert "no usable answer" in asked


FIXED = """
import dspy

class Fixed(dspy.Module):
    def __init__(self):
        super().__init__()
        self.step = dspy.Predict("text -> team, urgent")

    def forward(self, text):
        return dspy.Prediction(team=["Zoë", 1], urgent=False)

def program():
    return Fixed()
"""


def test_answers_are_printed_with_their_letters_as_they_are(model: Path, tmp_path: Path) -> None:
    text = SHORT.replace("format =", 'program = "program.py"\nformat =')
    folder = write_task(tmp_path / "routing", text)
    (folder / "program.py").write_text(FIXED)
    artifact = printed("compile", folder, "--model", model)["artifact"]

    result = invoke("run", artifact, "--input", '{"text": "hello"}')

    assert result.stdout == 'team: ["Zoë", 1]\nurgent: false\n'


def test_a_task_is_scored_before_it_is_compiled(task: Path, model: Path) -> None:
    once, again = (printed("evaluate", task, "--model", model, "--split", "train") for _ in "ab")

    assert (once["n"], once["artifact"], once["signature"]) == (3, None, "route@1.0.0")
    assert (once["calls"]["made"], again["calls"]) == (3, {"made": 0, "cached": 3})
    assert once["score"] == again["score"]


def test_a_changed_model_is_noticed_by_its_artifacts(
    task: Path, model: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(model, tmp_path / "mine")
    artifact = printed("compile", task, "--model", mine)["artifact"]
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))

    assert "compile again" in refused("run", artifact, "--input", '{"text": "hello"}')
    assert "no usable answer" in refused(
        "run", artifact, "--model", mine, "--input", '{"text": "hello"}'
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "k"], "--option 'k' is no pair; write --option key=value"),
        (["--option", "kk=1"], "unknown key 'kk'"),
        (["--optimizer", "labeled"], "did you mean 'labeled_few_shot'"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--teacher", "no/such/teacher"], "no/such/teacher"),
        (["--prompt-model", "remote/big"], "write remote/MODEL@https://HOST/v1"),
        (["--resume", "20260101-120000-routing-0a1b"], "20260101-120000-routing-0a1b"),
    ],
)
def test_a_wrong_option_is_one_line_and_no_run(
    task: Path, home: Path, arguments: list[str], message: str
) -> None:
    before = list(home.glob("runs/*"))

    assert message in refused("compile", task, *arguments)
    assert list(home.glob("runs/*")) == before


def test_a_missing_task_is_one_line(tmp_path: Path) -> None:
    assert "does not exist" in refused("compile", tmp_path / "none")
    assert "does not exist" in refused("evaluate", tmp_path / "none")
    assert "does not exist" in refused("run", tmp_path / "none", "--input", "{}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "--input is not JSON"),
        ("[1]", "must be a JSON object of inputs, got '[1]'"),
        ("@none.json", "input file none.json does not exist"),
        ('{"txt": "x"}', "did you mean 'text'"),
        ("{}", "'text' is missing"),
    ],
)
def test_wrong_inputs_are_one_line(artifact: str, given: str, message: str) -> None:
    assert message in refused("run", artifact, "--input", given)


def test_inputs_may_come_from_a_file_or_stdin(artifact: str, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"text": 3}')

    assert "'text' is 3" in refused("run", artifact, "--input", f"@{tmp_path / 'input.json'}")
    assert "'text' is 4" in refused("run", artifact, "--input", "-", input='{"text": 4}')
    assert "stdin is not JSON" in refused("run", artifact, "--input", "-", input="x")


def test_a_new_task_is_written_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = invoke("init", "mine")

    assert made.exit_code == 0
    assert made.stdout.strip() == str(tmp_path / "mine")
    assert "already exists" in refused("init", "mine")


@pytest.mark.parametrize("command", ["compile", "evaluate", "run", "init"])
def test_help_ends_with_an_example(command: str) -> None:
    assert f"Example: dspy-tk {command}" in invoke(command, "--help").stdout


def test_help_breaks_its_lines_where_the_terminal_ends() -> None:
    told = invoke("compile", "--help", env={"COLUMNS": "80"}).stdout
    lines = [line.strip() for line in told.splitlines()]
    begin = next(at for at, line in enumerate(lines) if line.startswith("A run that died"))
    paragraph = lines[begin : lines.index("", begin)]

    assert len(paragraph) > 1
    assert all(len(line) > 60 for line in paragraph[:-1])


def test_every_optimizer_is_listed_in_full_on_a_narrow_terminal() -> None:
    from dspy_toolkit.compiler.optimizers import OPTIMIZERS

    words = invoke("optimizers", "list", env={"COLUMNS": "80"}).stdout

    assert set(OPTIMIZERS) <= set(re.findall(r"\w+", words))
    assert "optimizers list" in invoke("compile", "--help", env={"COLUMNS": "80"}).stdout


def test_ctrl_c_ends_soon_with_130_and_a_marked_run(
    task: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    long = shutil.copytree(task, tmp_path / "long")
    text = (long / "task.toml").read_text().replace("max_tokens = 4", "max_tokens = 2000")
    (long / "task.toml").write_text(text)
    write_lines(long / "data" / "test.jsonl", rows("test", 200))
    command = "from dspy_toolkit.cli.main import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", command, "compile", long, "--model", model],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    log = wait_for_start(tmp_path / "home" / "runs", running)
    running.send_signal(signal.SIGINT)
    _, talk = running.communicate(timeout=30)

    assert running.returncode == 130, talk
    assert "Traceback" not in talk
    assert f"go on with: dspy-tk compile --resume {log.parent.name}" in talk
    assert "interrupted" in log.read_text().splitlines()[-1]
    assert "model call failed" not in log.read_text()
    assert not (log.parent / "artifact").exists()


def wait_for_start(runs: Path, running: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        for log in runs.glob("*/run.log"):
            if "baseline: started" in log.read_text():
                return log
        time.sleep(0.05)
    raise AssertionError("the run did not start")


def test_an_artifact_to_beat_runs_on_its_own_model(
    task: Path, model: Path, tmp_path: Path, artifact: str
) -> None:
    mine = shutil.copytree(model, tmp_path / "mine")
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    report = printed("compile", task, "--model", mine, "--against", artifact)

    assert (report["gate"]["against"], report["model"]) == (artifact, str(mine))
    # The artifact's answers on its own model are those of the run that made it.
    assert report["calls"] == {"made": 3, "cached": 3}


def test_a_worse_result_says_so_in_one_line_and_exits_with_1(
    task: Path, model: Path, tmp_path: Path
) -> None:
    worse = shutil.copytree(task, tmp_path / "worse")
    text = (worse / "task.toml").read_text()
    for old, new in (
        ('name = "per_field"', 'file = "metric.py"'),
        ('signature = "signature.toml"', 'program = "program.py"'),
        ("[data]", '[data]\ninputs = ["text"]'),
    ):
        text = text.replace(old, new)
    (worse / "task.toml").write_text(text)
    (worse / "program.py").write_text(PROGRAM)
    (worse / "metric.py").write_text(METRIC)
    write_lines(worse / "data" / "test.jsonl", rows("test", 12))

    result = invoke("compile", worse, "--model", model, "--json")
    report = json.loads(result.stdout)

    assert result.exit_code == 1
    assert (report["artifact"], report["gate"]["verdict"]) == (None, "worse")
    assert "no artifact was made: the result is worse than the bare program" in result.stderr
    assert invoke("compile", worse, "--model", model, "--keep-anyway").exit_code == 0
