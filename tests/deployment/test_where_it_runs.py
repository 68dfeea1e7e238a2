"""The files that have a server run: each read by the parser of what it is for."""

from __future__ import annotations

import configparser
import json
import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dspy_toolkit.deployment import Unit, write_unit
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.monitoring import CATALOG

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMAND = ["/opt/my tools/dspy-tk", "serve", "triage", "--port", "8000"]


def metric_names(expression: str) -> set[str]:
    return set(re.findall(r"\bdspy_tk_\w+", expression))


def known_metrics() -> set[str]:
    names = set()
    for facts in CATALOG:
        names.add(facts.name)
        if facts.kind == "histogram":
            names |= {f"{facts.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def unit_sections(text: str) -> configparser.ConfigParser:
    # A key may come again in a unit; none does in ours.
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


@pytest.mark.parametrize("user", [None, "dspy"])
def test_a_systemd_unit_runs_the_command_and_lets_it_end(user: str | None) -> None:
    text = write_unit(Unit(COMMAND, Path("/var/lib/dspy toolkit"), user), "systemd")
    service = unit_sections(text)["Service"]

    assert shlex.split(service["ExecStart"]) == COMMAND
    assert shlex.split(service["Environment"]) == ["DSPY_TK_HOME=/var/lib/dspy toolkit"]
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) > 30
    assert service.get("User") == user


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("user", [None, "root"])
def test_systemd_finds_nothing_to_complain_of(tmp_path: Path, user: str | None) -> None:
    program = shutil.which("true") or "/bin/true"
    unit = tmp_path / "dspy-tk.service"
    unit.write_text(write_unit(Unit([program, "50% of $HOME", 'a "b"'], tmp_path, user), "systemd"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )

    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


def test_a_launchd_unit_runs_the_command_and_lets_it_end() -> None:
    read = plistlib.loads(write_unit(Unit(COMMAND, Path("/Users/me/home")), "launchd").encode())

    assert read["ProgramArguments"] == COMMAND
    assert read["EnvironmentVariables"] == {"DSPY_TK_HOME": "/Users/me/home"}
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert read["ExitTimeOut"] > 30


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Unit(["dspy-tk", "serve", "x\nExecStartPre=/bin/evil"], Path("/x"))
    with pytest.raises(InvalidInput, match="systemd"):
        write_unit(Unit(COMMAND, Path("/x")), "systemdd")


def test_the_units_in_the_repository_are_those_the_command_writes() -> None:
    systemd = Unit(
        ["/opt/dspy-toolkit/bin/dspy-tk", "serve", "--host", "127.0.0.1", "--port", "8000"],
        Path("/var/lib/dspy-toolkit"),
        "dspy",
    )
    launchd = Unit(
        ["/usr/local/dspy-toolkit/bin/dspy-tk", "serve", "--host", "127.0.0.1", "--port", "8000"],
        Path("/usr/local/var/dspy-toolkit"),
    )

    assert (DEPLOY / "systemd/dspy-toolkit.service").read_text() == write_unit(systemd, "systemd")
    plist = DEPLOY / "launchd/dspy-toolkit.serve.plist"
    assert plist.read_text() == write_unit(launchd, "launchd")


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


def test_compose_mounts_and_builds_what_is_there_and_keeps_what_it_names() -> None:
    read = compose()
    named = set(read["volumes"])
    for service in read["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in named or (DEPLOY / source).exists(), source
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
        for secret in service.get("secrets", ()):
            assert secret in read["secrets"]
        for other in service.get("depends_on", ()):
            assert other in read["services"]
    build = read["services"]["server"]["build"]

    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_prometheus_asks_the_server_of_compose_with_the_key_it_is_given() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/compose.yml").read_text())
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    secret = Path(job["authorization"]["credentials_file"]).name

    assert target.split(":")[0] in compose()["services"]
    assert secret in compose()["secrets"]
    assert all((DEPLOY / "prometheus" / rules).is_file() for rules in config["rule_files"])


@pytest.mark.parametrize("page", sorted((DEPLOY / "grafana/dashboards").glob("*.json")))
def test_dashboards_name_only_metrics_that_exist(page: Path) -> None:
    board = json.loads(page.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = set().union(*map(metric_names, expressions))

    assert used
    assert used - known_metrics() == set()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_grafana_is_provisioned_with_the_source_its_dashboards_ask() -> None:
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/dspy-toolkit.yaml").read_text())["providers"]
    mounts = dict(v.split(":")[:2] for v in compose()["services"]["grafana"]["volumes"])
    boards = [json.loads(p.read_text()) for p in (DEPLOY / "grafana/dashboards").glob("*.json")]

    assert source["url"] == "http://prometheus:9090"
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert {p["datasource"]["uid"] for board in boards for p in board["panels"]} == {source["uid"]}


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_copies_what_is_there_and_starts_a_command_that_exists() -> None:
    found = instructions()
    for word, rest in found:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    entry = json.loads(next(rest for word, rest in found if word == "ENTRYPOINT"))
    arguments = json.loads(next(rest for word, rest in found if word == "CMD"))

    assert entry == ["dspy-tk"]
    assert arguments[0] == "serve"
    assert "--host" in arguments
    assert next(rest for word, rest in found if word == "USER") == "dspy"
    assert ("STOPSIGNAL", "SIGTERM") in found
