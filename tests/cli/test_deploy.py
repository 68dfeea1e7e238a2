"""What `dspy-tk deploy` and `dspy-tk keys` say, and what they refuse; no model is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments
from dspy_toolkit.deployment.store import CANDIDATE, PRODUCTION, Deployment
from dspy_toolkit.store.files import write_json
from dspy_toolkit.store.manifest import write_manifest
from tests.cli.conftest import Command

VERSIONS = ("1-0a0a0a0a", "2-0b0b0b0b")


@pytest.fixture
def deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployments:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Deployments(Settings(home=tmp_path / "home"))


def write_version(deployment: Deployment, version: str, score: float, demos: list[Any]) -> None:
    place = deployment.place(version)
    program = {
        "signature": "route@1.0.0",
        "optimizer": "gepa",
        "run": None,
        "score": {"score": score, "n": 8, "interval": [0.25, 1.0]},
        "gate": {"verdict": "worse", "n": 8},
        "test": None,
    }
    write_json(place / "artifact" / "program.json", {"demos": demos, "strict": score > 0.5})
    write_manifest(place / "artifact", {"compiled": program["score"]})
    write_manifest(
        place,
        {
            "format": 1,
            "name": deployment.name,
            "version": version,
            "digest": version,
            "created": "2026-11-20T10:00:00Z",
            "note": "",
            "program": program,
            "model": {"reference": "embedded", "weights": False, "adapter": False, "files": "f00"},
            "environment": {"python": "3.12.1", "platform": "linux-x86_64", "dspy": "3.4.1"},
        },
    )


@pytest.fixture
def triage(deployments: Deployments) -> Deployment:
    made = deployments.named("triage")
    write_version(made, VERSIONS[0], 0.5, [])
    write_version(made, VERSIONS[1], 0.75, [{"text": "late", "team": "comet"}])
    aliases = made.aliases()
    for version, alias, how in (
        (VERSIONS[0], PRODUCTION, "promote"),
        (VERSIONS[1], CANDIDATE, "push"),
    ):
        aliases = aliases.moved(alias, version, how, "for a reason")
    made.write_aliases(aliases)
    return made


def test_a_version_is_shown_in_words_and_to_machines_as_json(
    triage: Deployment, dspy_tk: Command
) -> None:
    done = dspy_tk("deploy", "show", "triage")
    told = dspy_tk("deploy", "show", "triage", "--json").out

    assert done.code == 0
    assert "score: 50.0 % of 8 test examples (25.0 to 100.0 %)" in done.out
    assert "model: embedded (named, not copied)" in done.out
    assert "made with: dspy 3.4.1, Python 3.12.1 on linux-x86_64" in done.out
    assert "production (promote): for a reason" in done.out
    assert not set("{[") & set(done.out)
    assert json.loads(told)["score"]["score"] == 0.5


def test_differences_are_told_once_and_in_words(triage: Deployment, dspy_tk: Command) -> None:
    done = dspy_tk("deploy", "diff", "triage")
    rows = [line.split("  ") for line in done.out.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]

    assert done.code == 0
    assert [row for row in cells if row and row[0] not in ("what", "")][1:] == [
        ["test score", "50.0 %", "75.0 %"],
        ["demos", "none", "-"],
        ["strict", "no", "yes"],
        ["demos[0].text", "-", "late"],
        ["demos[0].team", "-", "comet"],
    ]


def test_equal_versions_are_said_to_be(triage: Deployment, dspy_tk: Command) -> None:
    done = dspy_tk("deploy", "diff", "triage", "1", "1")

    assert done.err == f"{VERSIONS[0]} and {VERSIONS[0]} do not differ\n"


def test_a_damaged_deployment_is_named_beside_the_others(
    triage: Deployment, deployments: Deployments, dspy_tk: Command
) -> None:
    other = deployments.named("other")
    write_version(other, VERSIONS[0], 0.5, [])
    other.alias_file.write_text("{")
    (triage.place(VERSIONS[1]) / "artifact" / "program.json").write_text("{}")
    every = dspy_tk("deploy", "list")
    told = dspy_tk("deploy", "list", "--json").out
    versions = dspy_tk("deploy", "list", "triage")
    aliases = dspy_tk("deploy", "list", "other")

    assert every.code == 0
    assert VERSIONS[0] in next(line for line in every.out.splitlines() if "triage" in line)
    assert every.err.startswith("damaged: ")
    assert str(other.alias_file) in every.err
    damage = {each["name"]: each["damage"] for each in json.loads(told)["deployments"]}
    assert damage["triage"] is None
    assert str(other.alias_file) in damage["other"]
    assert all(version in versions.out for version in VERSIONS)
    assert "program.json" in versions.err
    assert str(other.alias_file) in aliases.err


def test_an_empty_reason_passes_no_gate(triage: Deployment, dspy_tk: Command) -> None:
    done = dspy_tk("deploy", "promote", "triage", "2", "--anyway", " ")

    assert done.code != 0
    assert "--anyway needs a reason" in done.err
    assert triage.resolve(PRODUCTION) == VERSIONS[0]


def test_an_import_of_what_is_there_says_what_to_do(triage: Deployment, dspy_tk: Command) -> None:
    file = dspy_tk("deploy", "export", "triage", "--to", "out").out
    done = dspy_tk("deploy", "import", file.strip())

    assert done.code != 0
    assert "already; import it under another --name" in done.err


def test_a_unit_that_other_machines_reach_needs_a_key(triage: Deployment, dspy_tk: Command) -> None:
    words = ("deploy", "unit", "triage", "--host", "0.0.0.0", "--kind", "systemd")
    before = dspy_tk(*words)
    dspy_tk("keys", "create", "robot")
    after = dspy_tk(*words)

    assert before.code != 0
    assert "there is no key yet" in before.err
    assert after.code == 0
    assert "--host 0.0.0.0" in after.out


@pytest.mark.parametrize(
    ("kind", "user", "why"),
    [
        ("systemd", "nobody-of-this-name", "no user of this machine"),
        ("launchd", "root", "leave out --user"),
    ],
)
def test_a_unit_is_for_a_user_there_is(
    triage: Deployment, dspy_tk: Command, kind: str, user: str, why: str
) -> None:
    done = dspy_tk("deploy", "unit", "triage", "--kind", kind, "--user", user)

    assert done.code != 0
    assert why in done.err
    assert done.err.count("\n") == 1


def test_a_key_for_what_is_not_deployed_is_made_with_a_note(
    triage: Deployment, dspy_tk: Command
) -> None:
    scopes = ("--scope", "programs:triage", "--scope", "programs:nosuch")
    done = dspy_tk("keys", "create", "robot", *scopes)

    assert done.code == 0
    assert done.out.startswith("dtk_")
    assert done.err.count("note: ") == 1
    assert "'nosuch'" in done.err
