"""`dspy-tk`: the commands, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from dspy_toolkit.cli import (
    breakers,
    compress,
    deploy,
    heads,
    keys,
    models,
    optimizers,
    runs,
    signatures,
)
from dspy_toolkit.cli.bench import bench_command
from dspy_toolkit.cli.compile import compile_command
from dspy_toolkit.cli.doctor import doctor
from dspy_toolkit.cli.evaluate import evaluate_command
from dspy_toolkit.cli.finetune import finetune_command
from dspy_toolkit.cli.health import health_command
from dspy_toolkit.cli.help_text import flowing
from dspy_toolkit.cli.init import init_command
from dspy_toolkit.cli.monitor import monitor_command
from dspy_toolkit.cli.output import out, say
from dspy_toolkit.cli.run import run_command
from dspy_toolkit.cli.serve import serve_command
from dspy_toolkit.cli.train import train_command
from dspy_toolkit.errors import StorageError, ToolkitError
from dspy_toolkit.events import Event, HistoryRebuilt, subscribed

INTERRUPTED = 130

app = typer.Typer(
    name="dspy-tk",
    help="Compile DSPy programs for the models your own machine can run.",
    epilog="Exit codes: 0 done, 1 failed, a problem was found or a result is worse, 2 wrong usage, "
    "3 not found, 4 invalid input, 5 damaged or changed content, 6 model failure, 7 storage, "
    "8 missing extra, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("compile")(compile_command)
app.command("evaluate")(evaluate_command)
app.command("run")(run_command)
app.command("serve")(serve_command)
app.command("init")(init_command)
app.command("train")(train_command)
app.command("finetune")(finetune_command)
app.command("bench")(bench_command)
app.command("doctor")(doctor)
app.command("health")(health_command)
app.command("monitor")(monitor_command)
app.add_typer(breakers.app, name="breakers")
app.add_typer(signatures.app, name="signatures")
app.add_typer(models.app, name="models")
app.add_typer(optimizers.app, name="optimizers")
app.add_typer(compress.app, name="compress")
app.add_typer(runs.app, name="runs")
app.add_typer(deploy.app, name="deploy")
app.add_typer(keys.app, name="keys")
app.add_typer(heads.app, name="heads")
flowing(app)


@app.callback(invoke_without_command=True)
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compile DSPy programs for the models your own machine can run."""
    if show_version:
        out(version("dspy-toolkit"))
        raise typer.Exit


def main() -> None:
    """Run a command; whatever goes wrong ends in one line on stderr and a documented exit code."""
    # Taken out by hand so that it may stand anywhere, also behind a command.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    # A service manager's polite end is Ctrl-C to us: what runs is marked as interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            with subscribed(_remark):
                ended = app(arguments, prog_name=app.info.name, standalone_mode=False)
        finally:
            sys.stdout.flush()
        if ended == INTERRUPTED:
            # Typer turns Ctrl-C into this exit without a word.
            say("interrupted")
        sys.exit(ended if isinstance(ended, int) else 0)
    except KeyboardInterrupt:
        # Before Typer began to run a command, or after it.
        say("interrupted")
        sys.exit(INTERRUPTED)
    except typer.Abort:
        say("aborted")
        sys.exit(ToolkitError.exit_code)
    except TyperException as error:
        _say_usage(error)
        sys.exit(error.exit_code)
    except ToolkitError as error:
        if debug:
            traceback.print_exc()
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough; Python would complain once more at exit.
        _discard_output()
        sys.exit(ToolkitError.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        _discard_output()
        say(f"error: {error.strerror or error}; free some space or check the place written to")
        sys.exit(StorageError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last place that can keep a traceback away
        if debug:
            traceback.print_exc()
        say(
            f"error: unexpected {type(error).__name__}: {_first_line(error)}; "
            "run it again with --debug and report what it prints"
        )
        sys.exit(ToolkitError.exit_code)


def _say_usage(error: TyperException) -> None:
    """Say in one line what was typed wrong and where; help that was asked for is printed by now."""
    problem = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if problem and context is not None:
        where = context.command_path
        problem = problem[0].lower() + problem[1:]
        say(f"error: {where}: {problem}; see `{where} --help`")
    elif problem:
        say(f"error: {problem}")


def _remark(event: Event) -> None:
    if isinstance(event, HistoryRebuilt):
        say(
            f"the run history was damaged; it is kept as {event.kept}, and was made anew from "
            f"{event.runs} run folders"
        )


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
