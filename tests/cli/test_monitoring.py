"""`health`, `monitor` and `breakers` against real servers, models and files."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dspy_toolkit.cli.main import app
from dspy_toolkit.contract import ServerError
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, NotFound, ToolkitError
from dspy_toolkit.events import AttemptFinished, BreakerChanged, subscribed
from dspy_toolkit.monitoring import Health, Metrics
from dspy_toolkit.resilience import (
    BreakerPolicy,
    EnginePolicy,
    FixedAnswer,
    Policy,
    ResilientEngine,
    RetryPolicy,
    stored_in,
)
from dspy_toolkit.resilience.errors import CircuitOpen
from dspy_toolkit.server import Catalog, ServedModel
from tests.engine.tiny import write_model
from tests.monitoring.serving import serving
from tests.monitoring.test_metrics import ONE_OF_EACH, fed
from tests.resilience.conftest import ask
from tests.server.serving import running

run = CliRunner().invoke
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def failing(text: str) -> str:
    raise ServerError("out of memory")


@pytest.mark.parametrize(("answer", "well"), [(lambda text: "ok", True), (failing, False)])
def test_the_command_tells_the_health_that_the_server_tells(answer: object, well: bool) -> None:
    health = Health({"m": ScriptedEngine(answer)})  # type: ignore[arg-type]
    with serving(health, Metrics()) as url:
        done = run(app, ["health", url, "--json"])
        told = health.check("deep").to_dict()
        shown = run(app, ["health", url])
    found = json.loads(done.stdout)

    assert done.exit_code == shown.exit_code == (0 if well else 1)
    assert (found["ok"], found["level"]) == (told["ok"], told["level"])
    assert [each["reason"] for each in found["findings"]] == [
        each["reason"] for each in told["findings"]
    ]
    assert ("not well" in shown.stdout) != well


def test_a_server_that_does_not_answer_is_not_well() -> None:
    done = run(app, ["health", NOWHERE, "--json"])

    assert done.exit_code == 1
    assert json.loads(done.stdout)["findings"][0]["reason"] == (
        f"{NOWHERE} does not answer: Connection refused"
    )


def test_what_answers_without_being_such_a_server_is_not_well() -> None:
    with serving(Health({}), Metrics()) as url:
        done = run(app, ["health", f"{url}/v1", "--json"])

    assert done.exit_code == 1
    assert "without a report" in json.loads(done.stdout)["findings"][0]["reason"]


def test_the_health_of_a_model_is_a_token_it_generates(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    done = run(app, ["health", "--model", str(folder), "--json"])

    assert done.exit_code == 0
    assert json.loads(done.stdout)["findings"][0]["token_age_s"] is not None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["health", NOWHERE, "--level", "dep"], InvalidInput),
        (["health", "--model", "/nowhere/at/all"], NotFound),
        (["monitor", NOWHERE, "--once"], EngineError),
        (["monitor", NOWHERE, "--key-file", "/nowhere"], NotFound),
        (["breakers", "show", "local"], NotFound),
        (["breakers", "open", "local"], NotFound),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], error: type[ToolkitError]) -> None:
    done = run(app, arguments)

    assert isinstance(done.exception, error)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize("address", ["localhost", "http://", "http://:abc", "http://h:99999"])
@pytest.mark.parametrize("command", ["health", "monitor"])
def test_what_is_no_address_is_told_with_one_that_is(command: str, address: str) -> None:
    done = run(app, [command, address])

    assert str(done.exception) == (
        f"{address!r} is not the address of a server; give one such as http://127.0.0.1:8000"
    )


def test_a_server_that_talks_no_http_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(run, app, ["health", url, "--json"])
            caller, _ = server.accept()
            with caller:
                caller.recv(1 << 16)
                caller.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
        done = asked.result()

    assert done.exit_code == 1
    assert "does not answer: SSH" in json.loads(done.stdout)["findings"][0]["reason"]


def test_the_monitor_shows_what_the_metrics_say() -> None:
    with serving(Health({}), fed(*ONE_OF_EACH)) as url:
        machine = run(app, ["monitor", url, "--once", "--json"])
        person = run(app, ["monitor", f"{url}/metrics", "--once"], env={"COLUMNS": "240"})
    found = json.loads(machine.stdout)

    assert machine.exit_code == person.exit_code == 0
    assert found["programs"][0]["program"] == "triage"
    assert found["engines"][0]["breaker"] == "open"
    assert all(word in person.stdout for word in ("triage", "50.0 %", "open", "since its start"))


def test_the_monitor_folds_and_cuts_nothing_on_a_narrow_terminal() -> None:
    engine = "triage-3-1f0c2a9e.a-smaller-quantization"
    more = (AttemptFinished(engine, 12.25, None), BreakerChanged(engine, "open", "half-open"))
    with serving(Health({}), fed(*ONE_OF_EACH, *more)) as url:
        shown = {
            width: run(app, ["monitor", url, "--once"], env={"COLUMNS": str(width)}).stdout
            for width in (60, 80, 240)
        }
    # What follows the server's own memory and threads, which go on changing.
    values = {
        width: re.split(r"\s{2,}", text[text.index("program ") :].strip())
        for width, text in shown.items()
    }

    assert {f"engine {engine}", "breaker half-open", "first p95 0.049 s"} < set(values[240])
    assert values[60] == values[80] == values[240]
    assert all(len(line) <= width for width in shown for line in shown[width].splitlines())


def test_a_real_server_is_asked_the_same_way() -> None:
    metrics = Metrics()
    catalog = Catalog(models={"echo": ServedModel.over("echo", ScriptedEngine(lambda _: "ok"))})
    with subscribed(metrics), running(catalog, metrics=metrics.exposition) as server:
        server.openai().chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "hello"}]
        )
        levels = {
            level: run(app, ["health", server.url, "--level", level, "--json"])
            for level in ("live", "ready", "deep")
        }
        seen = run(app, ["monitor", server.url, "--once", "--json"])

    assert {level: done.exit_code for level, done in levels.items()} == {
        "live": 0,
        "ready": 0,
        "deep": 0,
    }
    assert json.loads(levels["deep"].stdout)["findings"][0]["reason"] == "tokens come"
    assert json.loads(seen.stdout)["programs"][0]["program"] == "echo"


def test_a_key_in_a_file_opens_a_server_that_asks_for_one(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    (tmp_path / "empty").write_text("\n")
    with serving(Health({}), fed(*ONE_OF_EACH), key="secret") as url:
        without = run(app, ["monitor", url, "--once"])
        unwell = run(app, ["health", url, "--level", "live"])
        with_key = run(app, ["monitor", url, "--once", "--key-file", str(key)])
        empty = run(app, ["monitor", url, "--once", "--key-file", str(tmp_path / "empty")])
        refused = []
        for wrong in ("wrong", "other"):
            key.write_text(wrong)
            words = ["--key-file", str(key)]
            refused.append(run(app, ["health", url, *words]))
            refused.append(run(app, ["monitor", url, "--once", *words]))

    assert isinstance(without.exception, InvalidInput)
    assert isinstance(unwell.exception, InvalidInput)
    assert "--key-file" in str(without.exception)
    assert with_key.exit_code == 0
    assert isinstance(empty.exception, InvalidInput)
    assert all(isinstance(done.exception, InvalidInput) for done in refused)
    assert ["scope admin" in str(done.exception) for done in refused] == [False, False, True, True]
    assert ["not valid" in str(done.exception) for done in refused] == [True, True, False, False]


def test_circuits_are_listed_opened_and_closed_by_hand_while_they_are_used(home: Path) -> None:
    policy = Policy(
        "local", {"local": EnginePolicy(retry=RetryPolicy(attempts=1), breaker=BreakerPolicy())}
    )
    engine = ResilientEngine(
        policy, {"local": FixedAnswer("yes")}, storage=stored_in(home / "breakers")
    )

    assert json.loads(run(app, ["breakers", "list", "--json"]).stdout) == {
        "breakers": [{"engine": "local", "state": "closed", "opened_at": None}]
    }
    assert run(app, ["breakers", "open", "local"]).exit_code == 0
    with pytest.raises(CircuitOpen):
        engine.complete(ask())

    shown = json.loads(run(app, ["breakers", "show", "local", "--json"]).stdout)

    assert (shown["state"], shown["opened_at"] is None) == ("open", False)
    assert "ago" in run(app, ["breakers", "list"]).stdout
    assert run(app, ["breakers", "close", "local"]).exit_code == 0
    assert engine.complete(ask()).text == "yes"


def test_no_circuits_are_said_to_be_none() -> None:
    done = run(app, ["breakers", "list"])

    assert done.exit_code == 0
    assert done.stdout == ""
    assert "no circuit has a state" in done.stderr


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[]", b'{"state": "ajar", "opened_at": null}']
)
def test_a_damaged_state_is_told_with_what_writes_it_again(home: Path, content: bytes) -> None:
    state = home / "breakers" / "local.json"
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    told = [run(app, ["breakers", *words]).exception for words in (["list"], ["show", "local"])]

    assert all(isinstance(each, IntegrityError) for each in told)
    assert all("`dspy-tk breakers close` writes it again" in str(each) for each in told)
    assert run(app, ["breakers", "close", "local"]).exit_code == 0
    assert "closed" in run(app, ["breakers", "show", "local"]).stdout
