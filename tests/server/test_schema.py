"""Whatever fits the API's description, or nearly does, gets an answer that fits it."""

from __future__ import annotations

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


def drive(server: Running, cases: int) -> dict[str, set[int]]:
    """Send cases of each operation, valid ones and broken ones; statuses seen by path."""
    seen: dict[str, set[int]] = {}
    found = operations(server)
    for operation in found:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not operation.body:
                continue
            statuses = seen.setdefault(operation.path, set())
            send(operation.as_strategy(generation_mode=mode), cases // (2 * len(found)), statuses)
    return seen


def send(strategy: Any, count: int, statuses: set[int]) -> None:
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
        answer = case.call(timeout=60)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    one()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_no_request_gets_a_5xx_or_an_answer_outside_the_description(short: Running) -> None:
    seen = drive(short, 240)

    assert all(400 in seen[path] for path in WRITTEN), seen
    assert any(200 in seen[path] for path in WRITTEN), seen
    assert 200 in seen["/v1/programs/routing"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_ten_thousand_requests_get_no_5xx_or_an_answer_outside_the_description(
    short: Running,
) -> None:
    seen = drive(short, 10_000)

    assert all(seen[path] >= {200, 400} for path in WRITTEN), seen
