from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from dspy_toolkit.compiler.mlflow_export import EXPERIMENT, FILE, export_to_mlflow
from dspy_toolkit.errors import MissingExtra, NotFound
from dspy_toolkit.store.append_log import read_log
from tests.compiler.test_resume import Place, place

__all__ = ["place"]


def dead_server() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_stored_once_however_often_it_is_sent(place: Place, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    report = place.compiled().report
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(3):
        sent = export_to_mlflow(report["run"], uri, place.settings)

        assert (sent.runs, sent.waiting, sent.problem) == ((report["run"],), (), None)

    client = mlflow.MlflowClient(tracking_uri=uri)
    number = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (kept,) = client.search_runs([number])
    history = client.get_metric_history(kept.info.run_id, "candidate_score")
    assert [each.value for each in history] == report["candidates"]
    assert kept.data.metrics["compiled_score"] == report["compiled"]["score"]
    assert kept.data.params["optimizer"] == report["optimizer"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_dead_server_did_not_take_waits_for_the_next_export(place: Place) -> None:
    pytest.importorskip("mlflow")
    report = place.compiled().report
    uri = dead_server()
    first = export_to_mlflow(report["run"], uri, place.settings)
    second = export_to_mlflow(report["run"], uri, place.settings)

    assert first.waiting == second.waiting == (report["run"],)
    assert first.problem is not None
    assert read_log(place.home / FILE).records == ({"run": report["run"], "uri": uri},)


def test_without_the_package_the_extra_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.compiled().report["run"]
    monkeypatch.setitem(sys.modules, "mlflow", None)

    with pytest.raises(MissingExtra, match=r"pip install 'dspy-toolkit\[mlflow\]'"):
        export_to_mlflow(run, "sqlite:///x.db", place.settings)


def test_an_unknown_run_is_named(place: Place) -> None:
    place.compiled()

    with pytest.raises(NotFound):
        export_to_mlflow("none", "sqlite:///x.db", place.settings)
