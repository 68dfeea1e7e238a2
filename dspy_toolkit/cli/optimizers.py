"""`dspy-tk optimizers`: what can be done to a program, what it needs and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out, out_json, table

app = typer.Typer(help="Look at the optimizers.", no_args_is_help=True)


@app.command("list")
def list_command(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of docs/optimizers.md.")
    ] = False,
    json: Json = False,
) -> None:
    """List the optimizers: what each needs, and its calls on 80 train and 80 validation examples.

    Example: dspy-tk optimizers list
    """
    from dspy_toolkit.compiler.optimizers import OPTIMIZERS
    from dspy_toolkit.compiler.optimizers.pages import cells, columns, pages

    if json:
        out_json({"optimizers": [row.facts() for row in OPTIMIZERS.values()]})
    elif markdown:
        out(pages(OPTIMIZERS.values()))
    else:
        # Without DSPy's names, which would not fit.
        table("", columns()[:-1], (cells(row.facts())[:-1] for row in OPTIMIZERS.values()))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of an optimizer.")], json: Json = False
) -> None:
    """Show one optimizer with its options and their defaults.

    Example: dspy-tk optimizers show miprov2
    """
    from dspy_toolkit.compiler.optimizers import optimizer
    from dspy_toolkit.compiler.optimizers.pages import option_cells, option_columns

    facts = optimizer(name).facts()
    if json:
        out_json(facts)
        return
    table(name, ("", "what"), _story(facts))
    if facts["options"]:
        table("", option_columns(), map(option_cells, facts["options"]))


def _story(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "does", facts["description"]
    yield "in DSPy", facts["dspy_class"] or "no such thing, the toolkit's own"
    yield "teacher", "used where one is given" if facts["teacher"] else "not used"
    yield "prompt model", "writes the proposals" if facts["prompt_model"] else "not used"
    yield "metric", facts["metric"]
    if facts["program"]:
        yield "program", facts["program"]
    yield "training examples", f"at least {facts['least_train']}"
    if facts["extras"]:
        yield "packages", ", ".join(facts["extras"])
    if facts["refused"]:
        yield "cannot be used", facts["refused"]
        return
    yield "model calls", f"{facts['calls']} on 80 train and 80 validation examples, one predictor"
    yield "foretold", facts["unforeseen"] or "within 20 %"
    yield "durable", facts["not_durable"] or "yes: --resume makes no call twice"
