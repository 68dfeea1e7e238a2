"""Runs sent to an MLflow server, which may be down: kept in a spool until it takes them.

What is to be sent is written to `<home>/mlflow.log` first. Sending is tried with few and short
retries, so that nothing waits for a server that does not answer; what was not taken is sent with
the next export. A run is known on the server by its id, and its numbers carry their own times, so
that sending twice stores them once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, MissingExtra, NotFound
from dspy_toolkit.store.append_log import AppendLog
from dspy_toolkit.store.history import RUNNING

FILE = "mlflow.log"
EXPERIMENT = "dspy-toolkit"
_RETRIES, _TIMEOUT_S = 1, 5
_RUN_TAG = "dspy_toolkit.run"


@dataclass(frozen=True)
class Sent:
    """What an export came to.

    Attributes:
        runs: ids that the server has now.
        waiting: ids that it did not take; the next export sends them.
        problem: why it did not, in one line, or None.
    """

    runs: tuple[str, ...]
    waiting: tuple[str, ...]
    problem: str | None = None


def export_to_mlflow(run: str, uri: str, settings: Settings) -> Sent:
    """Send a run, and whatever waits for the same server.

    Args:
        run: its id; it must have ended.
        uri: of the server, or of a database such as `sqlite:///mlflow.db`.
        settings: whose home.

    Raises:
        NotFound: no such run. InvalidInput: it is still running.
        MissingExtra: mlflow is not installed. StorageError: the spool cannot be written.
    """
    if find_run(settings, run).status == RUNNING:
        raise InvalidInput(f"run {run} is still running; export it when it has ended")
    client = _client(uri)
    sent: list[str] = []
    problem: str | None = None
    with closing(AppendLog(settings.home / FILE)) as spool:
        waiting = _waiting(spool.recovered.records, uri)
        if run not in waiting:
            spool.append({"run": run, "uri": uri})
            waiting.append(run)
        for each in waiting:
            try:
                _send(client, each, settings)
            except NotFound:
                # It was deleted since; nothing is left to send.
                spool.append({"run": each, "uri": uri, "sent": True})
                waiting = [run for run in waiting if run != each]
                continue
            except Exception as error:  # noqa: BLE001  # whatever a server and its client may raise
                problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                break
            spool.append({"run": each, "uri": uri, "sent": True})
            sent.append(each)
    return Sent(tuple(sent), tuple(each for each in waiting if each not in sent), problem)


def _waiting(records: tuple[Any, ...], uri: str) -> list[str]:
    runs: dict[str, None] = {}
    for record in records:
        if record["uri"] != uri:
            continue
        if record.get("sent"):
            runs.pop(record["run"], None)
        else:
            runs[record["run"]] = None
    return list(runs)


def _client(uri: str) -> Any:
    try:
        import mlflow

        known: Any = import_module("mlflow.environment_variables")
    except ImportError:
        raise MissingExtra("mlflow-skinny", "mlflow", "export to MLflow") from None
    # At its defaults a call to a dead server takes minutes.
    known.MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(_RETRIES)
    known.MLFLOW_HTTP_REQUEST_TIMEOUT.set(_TIMEOUT_S)
    return mlflow.MlflowClient(tracking_uri=uri)


def _send(client: Any, run: str, settings: Settings) -> None:
    from mlflow.entities import Metric, Param, RunTag

    found = find_run(settings, run)
    began = int(1000 * found.row.started_at)
    target = _target(client, run, began)
    metrics = [Metric(name, value, began + step, step) for name, value, step in _numbers(found)]
    params = [Param(name, str(value)[:500]) for name, value in _params(found)]
    tags = [RunTag("status", found.status), RunTag("task", found.row.task)]
    client.log_batch(target, metrics=metrics, params=params, tags=tags)
    client.set_terminated(target, "FINISHED" if found.report else "FAILED")


def _target(client: Any, run: str, began: int) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    known = client.search_runs([number], f"tags.`{_RUN_TAG}` = '{run}'")
    if known:
        return str(known[0].info.run_id)
    made = client.create_run(number, start_time=began, tags={_RUN_TAG: run}, run_name=run)
    return str(made.info.run_id)


def _numbers(run: Any) -> Iterator[tuple[str, float, int]]:
    report: Mapping[str, Any] = run.report
    for name in ("baseline", "compiled"):
        if name in report:
            yield f"{name}_score", report[name]["score"], 0
    for number, score in enumerate(report.get("candidates", ()), start=1):
        yield "candidate_score", score, number
    if report:
        yield "calls", report["calls"]["made"], 0
        yield "seconds", report["seconds"], 0


def _params(run: Any) -> Iterator[tuple[str, Any]]:
    yield from (("optimizer", run.row.optimizer), ("model", run.row.model), ("seed", run.row.seed))
    yield from run.report.get("optimizer_options", {}).items()
