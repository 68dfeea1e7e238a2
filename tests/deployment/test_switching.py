"""A running server changes versions without dropping, mixing or spoiling an answer."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployment, Deployments, Follower, PushOptions
from dspy_toolkit.events import Event, VersionRefused, VersionSwitched, subscribed
from dspy_toolkit.server import Catalog
from tests.deployment.making import INPUTS, write_marked
from tests.server.serving import PATIENCE_S, running

PATH = "/v1/programs/t"


def pushed(
    deployments: Deployments, settings: Settings, tmp_path: Path, *builds: str
) -> Deployment:
    for build in builds:
        write_marked(tmp_path / build, settings, build)
        deployments.named("t").push(tmp_path / build, settings, PushOptions(smoke=INPUTS))
    return deployments.find("t")


def point(deployment: Deployment, version: str) -> None:
    with deployment.changing():
        aliases = deployment.aliases()
        deployment.write_aliases(aliases.moved("production", version, "promote", "test"))


def switch_often(
    deployments: Deployments, settings: Settings, tmp_path: Path, times: int
) -> tuple[set[tuple[str, str]], list[int], int]:
    """Switch under load: what answered (version, build), what failed, how many were good."""
    deployment = pushed(deployments, settings, tmp_path, "A", "B")
    first, second = deployment.versions
    point(deployment, first)
    switched: SimpleQueue[str] = SimpleQueue()
    seen: set[tuple[str, str]] = set()
    failed: list[int] = []
    count = 0
    over = threading.Event()
    catalog = Catalog()

    def heard(event: Event) -> None:
        if isinstance(event, VersionSwitched):
            switched.put(event.after)

    follower = Follower(deployment, catalog.shelf, settings)
    with subscribed(heard), running(catalog, followers=[follower]) as server:
        assert switched.get(timeout=PATIENCE_S) == first

        def ask() -> None:
            nonlocal count
            with server.http() as http:
                while not over.is_set():
                    answer = http.post(PATH, json={"inputs": INPUTS})
                    if answer.status_code != 200:
                        failed.append(answer.status_code)
                        continue
                    said = answer.json()
                    seen.add((said["version"], said["outputs"]["build"]))
                    count += 1

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for number in range(times):
            wanted = second if number % 2 == 0 else first
            point(deployment, wanted)
            assert switched.get(timeout=PATIENCE_S) == wanted
        over.set()
        for asker in askers:
            asker.join(PATIENCE_S)
    catalog.close()
    assert seen <= {(first, "A"), (second, "B")}
    return seen, failed, count


def test_every_answer_comes_whole_from_one_version(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    seen, failed, count = switch_often(deployments, settings, tmp_path, 24)

    assert len(seen) == 2
    assert failed == []
    assert count > 24


@pytest.mark.slow
def test_every_answer_comes_whole_from_one_version_over_a_thousand_switches(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    seen, failed, count = switch_often(deployments, settings, tmp_path, 1000)

    assert len(seen) == 2
    assert failed == []
    assert count > 1000


@pytest.mark.parametrize("harm", ["damaged", "gone", "broken"])
def test_a_version_that_cannot_be_served_is_refused_and_the_old_one_stays(
    deployments: Deployments, settings: Settings, tmp_path: Path, harm: str
) -> None:
    needed = tmp_path / "needed"
    needed.write_text("B")
    deployment = pushed(deployments, settings, tmp_path, "A")
    write_marked(
        tmp_path / "B", settings, f'" + __import__("pathlib").Path({str(needed)!r}).read_text() + "'
    )
    deployment.push(tmp_path / "B", settings, PushOptions(smoke=INPUTS))
    first, second = deployment.versions
    point(deployment, first)
    if harm == "broken":
        needed.unlink()
    elif harm == "damaged":
        (deployment.place(second) / "artifact" / "program.json").write_text("{}")
    else:
        shutil.rmtree(deployment.place(second))
    heard: SimpleQueue[Event] = SimpleQueue()
    catalog = Catalog()
    follower = Follower(deployment, catalog.shelf, settings)
    with subscribed(heard.put), running(catalog, followers=[follower]) as server:
        wait_for(heard, VersionSwitched)
        point(deployment, second)
        refused = wait_for(heard, VersionRefused)
        with server.http() as http:
            answer = http.post(PATH, json={"inputs": INPUTS}).json()
    catalog.close()

    assert isinstance(refused, VersionRefused)
    assert refused.version == second
    assert (answer["version"], answer["outputs"]["build"]) == (first, "A")


def wait_for(heard: SimpleQueue[Event], kind: type[Event]) -> Event:
    while True:
        event = heard.get(timeout=PATIENCE_S)
        if isinstance(event, kind):
            return event
