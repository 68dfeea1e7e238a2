from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.journal import FILE as JOURNAL
from dspy_toolkit.programs.limits import TooManyFailures
from dspy_toolkit.resilience import FaultyEngine, ManualClock
from dspy_toolkit.store.append_log import read_log
from tests.compiler.small import USABLE, answering, options
from tests.compiler.test_resume import Place, place, same
from tests.conformance.brief import the_rest_slow
from tests.programs.tasks import learner

__all__ = ["place"]


class Spoiler:
    """Commands a `FaultyEngine` before each call: it fails with one chance, babbles with another.

    What it commands depends on the request alone, as far as a stream of chance can.
    """

    def __init__(self, engine: Any, failing: float, babbling: float) -> None:
        self.faulty = FaultyEngine(engine, ManualClock())
        self._failing = failing
        self._babbling = babbling
        self.faults = 0

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Answer, fail or babble."""
        draw = random.Random(str(request.messages)).random()
        if draw < self._failing:
            self.faults += 1
            raise lm15.ServerError("the server is busy", status=503)
        if draw < self._failing + self._babbling:
            self.faults += 1
            self.faulty.garbage_next()
        return self.faulty.complete(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.faulty, name)


@pytest.mark.parametrize(
    ("failing", "babbling"),
    [
        pytest.param(0.1, 0.0, marks=pytest.mark.slow),
        pytest.param(0.0, 0.1, marks=pytest.mark.slow),
        (0.1, 0.1),
    ],
)
@pytest.mark.parametrize("optimizer", the_rest_slow(USABLE))
def test_every_optimizer_finishes_over_a_faulty_engine(
    tmp_path: Path, optimizer: str, failing: float, babbling: float
) -> None:
    place = Place(tmp_path, optimizer)
    spoilers: list[Spoiler] = []

    def spoilt(engine: Any) -> Spoiler:
        spoilers.append(Spoiler(engine, failing, babbling))
        return spoilers[-1]

    how = {**options(optimizer), "answer": answering(optimizer)}
    result = place.compiled(around=spoilt, threads=1, keep_anyway=True, **how)

    assert result.artifact is not None
    assert sum(spoiler.faults for spoiler in spoilers) > 0
    assert find_run(place.settings, place.run()).status == "finished"


def down(request: str) -> str:
    raise lm15.ServerError("connection refused", status=503)


def test_a_model_that_stops_answering_ends_the_run_and_is_asked_again_later(
    place: Place, tmp_path: Path
) -> None:
    whole = Place(tmp_path / "whole").compiled()
    asked = 0

    def answer(request: str) -> str:
        nonlocal asked
        asked += 1
        return learner(request) if asked <= 14 else down(request)

    with pytest.raises(TooManyFailures, match=r"of the last \d+ model calls failed, more than 50"):
        place.compiled(answer=answer)
    run = find_run(place.settings, place.run())
    kept = read_log(run.folder / JOURNAL).records
    failed = [record for record in kept if "error" in record]
    result = place.compiled()

    assert run.status == "failed"
    assert "connection refused" in str(run.row.error)
    assert len(kept) - len(failed) == 14
    assert len(failed) < 20
    assert same(result.report) == same(whole.report)
    assert f"{len(failed)} calls that failed are made again" in (run.folder / "run.log").read_text()


def test_more_failures_are_borne_where_that_is_asked_for(place: Place) -> None:
    asked = 0

    def answer(request: str) -> str:
        nonlocal asked
        asked += 1
        return learner(request) if asked % 4 == 0 else down(request)

    report = place.compiled(answer=answer, course=Course(max_failures=0.9)).report

    assert report["failures"]["baseline"]["count"] == 9
    assert "connection refused" in report["failures"]["baseline"]["first"]


def test_a_model_that_never_answers_is_one_line(place: Place) -> None:
    with pytest.raises(EngineError, match="failed on every example"):
        place.compiled(answer=down)


def test_failures_are_repeated_after_a_kill(place: Place, tmp_path: Path) -> None:
    """A run that died goes on to what it would have come to, its failures included."""
    whole = Place(tmp_path / "whole").compiled(answer=flaky)
    place.killed(kill_at=30, answer=flaky)

    assert same(place.compiled(answer=flaky).report) == same(whole.report)


def flaky(request: str) -> str:
    """Fails on some requests, on the same ones in every process."""
    return down(request) if random.Random(request).random() < 0.15 else learner(request)
