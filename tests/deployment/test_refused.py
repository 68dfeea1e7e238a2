from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments, PushOptions
from dspy_toolkit.errors import NotFound


def test_a_refused_first_push_leaves_no_deployment(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        deployments.named("triage").push(tmp_path / "nowhere", settings, PushOptions())

    assert deployments.names == ()
    assert list(deployments.folder.iterdir()) == []


def test_a_refused_push_leaves_what_was_there(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    deployment = deployments.named("triage")
    kept = deployment.place("1-0a0a0a0a")
    kept.mkdir(parents=True)
    with pytest.raises(NotFound, match="does not exist"):
        deployment.push(tmp_path / "nowhere", settings, PushOptions())

    assert deployment.versions == (kept.name,)
