"""Whatever fits the API's description, or nearly does, gets an answer that fits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.served import open_program
from dspy_toolkit.server import Catalog, ServedModel
from tests.server.serving import Running, running

CHECKS: Any = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
WRITTEN = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
TAKING = (*WRITTEN, "/v1/programs/routing", "/v1/programs/routing/batch")
# A machine that tests run on may do much else.
PATIENCE_S = 900.0


@pytest.fixture(scope="module")
def short(settings: Settings, artifact: Artifact) -> Iterator[Running]:
    """A model of few tokens, so that ten thousand answers are soon given."""
    catalog = Catalog()
    engine = open_engine("embedded", EngineOptions(context=48, max_tokens=8), settings)
    catalog.models["nano"] = ServedModel.over("nano", engine)
    catalog.shelf.put(open_program(artifact, "routing", "v1", settings))
    with running(catalog) as started:
        yield started
    catalog.close()


def operations(server: Running) -> list[Any]:
    with server.http() as http:
        described = http.get("/openapi.json").json()
    # Half of what is asked for is there: names drawn at random would all be unknown.
    for name in ("ChatBody", "CompletionBody", "EmbeddingBody"):
        model = described["components"]["schemas"][name]["properties"]["model"]
        model["enum"] = ["nano", "routing", "unknown"]
    schema: Any = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=server.url)
    return [found.ok() for found in schema.get_all_operations()]


def drive(server: Running, cases: int, path: str | None = None) -> dict[str, Counter[int]]:
    """Send cases, half of them broken where there is a body; how often each status came, by path.

    Args:
        cases: of each operation; one that takes nothing gets a single one.
        path: of the one operation to try, or None for all.
    """
    seen: dict[str, Counter[int]] = {}
    for operation in operations(server):
        if path not in (None, operation.path):
            continue
        statuses = seen.setdefault(operation.path, Counter())
        modes = list(GenerationMode) if operation.body else [GenerationMode.POSITIVE]
        for mode in modes:
            send(operation.as_strategy(generation_mode=mode), cases // len(modes), statuses)
    return seen


def send(strategy: Any, count: int, statuses: Counter[int]) -> None:
    """Send cases, and hold every answer against the description."""

    @hypothesis_settings(
        max_examples=max(1, count),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def one(case: Any) -> None:
        answer = case.call(timeout=PATIENCE_S)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    one()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_no_request_gets_a_5xx_or_an_answer_outside_the_description(short: Running) -> None:
    seen = drive(short, 12)

    assert all(400 in seen[path] for path in WRITTEN), seen
    assert any(200 in seen[path] for path in WRITTEN), seen
    assert 200 in seen["/v1/programs/routing"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TAKING)
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_of_ten_thousand_requests_none_gets_a_5xx_or_an_answer_outside_the_description(
    short: Running, path: str
) -> None:
    seen = drive(short, 10_000 // len(TAKING), path)[path]

    assert seen.total() >= 10_000 // len(TAKING)
    assert set(seen) >= {200, 400}
