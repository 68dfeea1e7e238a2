"""`dspy-tk compress`: make smaller models, and choose among them by a program's own metric."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out_json, say, table

if TYPE_CHECKING:
    from dspy_toolkit.compression.build import Built

NONE_FOUND = 1

app = typer.Typer(
    name="compress",
    help="Make models smaller and faster, judged by programs.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(help="embedded, a model folder, or a hub id.")]
Task = Annotated[
    Path | None,
    typer.Option(help="A task folder or an artifact, whose prompts are calibration data."),
]
Calibration = Annotated[
    str | None,
    typer.Option(help="A text or JSON Lines file, a kept set, or 'samples' of the model itself."),
]
Output = Annotated[Path | None, typer.Option(help="Put a copy into this new folder.")]


@app.command()
def analyze(
    model: Model,
    task: Task = None,
    calibration: Calibration = None,
    json: Json = False,
) -> None:
    """Show what a model is made of, how sensitive its parts are, and what techniques could give.

    Example: dspy-tk compress analyze embedded --task examples/ticket_triage
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compression.analysis import analyse

    with nullcontext() if json else live_progress():
        report = analyse(model, task, calibration)
    if json:
        out_json(report)
        return
    table(
        f"{report['model']}: {report['architecture']}, {report['parameters']:,} parameters, "
        f"{_size(report['bytes'])} in {report['dtype']}",
        ("part", "parameters", "bytes", "seconds for 256 tokens", "KL at 4 bits"),
        [
            (
                each["part"],
                f"{each['parameters']:,}",
                _size(each["bytes"]),
                "" if each["seconds"] is None else f"{each['seconds']:.4f}",
                f"{each['kl']:.5f}" if "kl" in each else "",
            )
            for each in report["layers"]
        ],
    )
    table(
        "what techniques could give",
        ("setting", "parameters", "size", "why not"),
        [
            (each["setting"], "", "", each["refused"])
            if each["refused"]
            else (
                each["setting"],
                f"{each['parameters']:,}",
                ("" if each["sure"] else "at most ") + _size(each["bytes"]),
                "",
            )
            for each in report["techniques"]
        ],
    )
    cuts = ", ".join(report["cuts"]) or "none"
    say(f"what can be cut so that mlx-lm loads the result: {cuts}")


@app.command()
def quantize(
    model: Model,
    method: Annotated[str, typer.Option(help="rtn, awq, smoothquant, gptq, dwq or mixed.")] = "rtn",
    bits: Annotated[int | None, typer.Option(help="Of a weight: 2 to 6, or 8.")] = None,
    group: Annotated[
        int | None, typer.Option(help="Weights that share a scale: 32, 64 or 128.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Of rtn: affine, mxfp4, nvfp4 or mxfp8.")] = None,
    target: Annotated[float | None, typer.Option(help="Of mixed: bits a weight in all.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of dwq: updates.")] = None,
    task: Task = None,
    calibration: Calibration = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Pack a model's weights into few bits. rtn needs no data; the others read some.

    Example: dspy-tk compress quantize embedded --method gptq --bits 4 --task examples/ticket_triage
    """
    options = {"bits": bits, "group": group, "mode": mode, "target": target, "steps": steps}
    _make(model, method, options, task, calibration, output, json)


Heal = Annotated[bool, typer.Option("--heal", help="Let the result learn the original's answers.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Updates while it learns.")]
Rate = Annotated[float | None, typer.Option(min=0, help="Highest learning rate.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Examples of an update.")]
Hidden = Annotated[
    float | None, typer.Option(min=0, help="How much the states between blocks count.")
]


@app.command()
def prune(
    model: Model,
    method: Annotated[
        str, typer.Option(help="magnitude, gradient, activation or wanda.")
    ] = "wanda",
    structure: Annotated[
        str, typer.Option(help="layers, ffn, heads, width or unstructured.")
    ] = "ffn",
    target: Annotated[
        float,
        typer.Option(help="Share of the parameters to leave out at least, or of weights to zero."),
    ] = 0.25,
    heal: Heal = False,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    hidden: Hidden = None,
    task: Task = None,
    calibration: Calibration = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Leave out what matters least. Whole units give a smaller model that stock mlx-lm loads;
    unstructured zeros make nothing smaller or faster on MLX, which has no sparse products.

    Example: dspy-tk compress prune embedded --structure width --heal --task examples/ticket_triage
    """
    options = {
        "method": method,
        "structure": structure,
        "target": target,
        "heal": heal,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "hidden": hidden,
    }
    _make(model, "prune", options, task, calibration, output, json)


@app.command()
def factorize(
    model: Model,
    rank: Annotated[int | None, typer.Option(min=1, help="Of every matrix.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Share of its squared output a matrix keeps.")
    ] = None,
    embedding: Annotated[bool, typer.Option("--embedding", help="The embedding too.")] = False,
    heal: Heal = False,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    task: Task = None,
    calibration: Calibration = None,
    output: Output = None,
    json: Json = False,
) -> None:
    """Make matrices products of thin ones, where that is smaller and measured faster.

    The result runs on this toolkit; mlx-lm alone does not load it.

    Example: dspy-tk compress factorize embedded --energy 0.99 --task examples/ticket_triage
    """
    options = {
        "rank": rank,
        "energy": energy,
        "embedding": embedding,
        "heal": heal,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
    }
    _make(model, "factorize", options, task, calibration, output, json)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option(help="The model to follow.")],
    student: Annotated[
        list[str],
        typer.Option(help="A model, or a shape such as layers=3,ffn=256; repeat it for stages."),
    ],
    task: Task = None,
    calibration: Calibration = None,
    divergence: Annotated[
        str, typer.Option(help="forward follows all of the teacher, reverse its main choices.")
    ] = "forward",
    hidden: Hidden = None,
    attribution: Annotated[
        bool, typer.Option("--attribution", help="Weigh tokens by what they add to the answer.")
    ] = False,
    on_policy: Annotated[
        float, typer.Option(help="Share of batches whose answers the student writes.")
    ] = 0.0,
    temperature: Annotated[float | None, typer.Option(help="What logits are divided by.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    output: Output = None,
    json: Json = False,
) -> None:
    """Let a smaller model learn to answer as a larger one, on a program's own prompts.

    Example: dspy-tk compress distill --teacher embedded --student layers=3 --task TASK
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compression.make import distill_stages

    given = {
        "divergence": divergence,
        "hidden": hidden,
        "attribution": attribution,
        "on_policy": on_policy,
        "temperature": temperature,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    with nullcontext() if json else live_progress():
        built = distill_stages(
            teacher, student, options, task=task, calibration=calibration, output=output
        )
    if json:
        out_json({"stages": [{"folder": str(each.folder), **each.manifest} for each in built]})
        return
    for each in built:
        _show(each, output if each is built[-1] else None)


@app.command()
def run(
    path: Annotated[
        Path, typer.Argument(metavar="TASK", help="A task folder, an artifact, or a run's folder.")
    ],
    model: Annotated[str, typer.Option(help="The model to compress.")],
    goal: Annotated[
        list[str] | None,
        typer.Option(help="Such as 'size<=2MB', 'score>=baseline-0.02', 'latency p50<=0.8x'."),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Try these only, such as gptq-4 or width-25+rtn-8.")
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(help="Whose examples and metric, where TASK is an artifact made elsewhere."),
    ] = None,
    recompile: Annotated[
        int, typer.Option(min=0, help="Candidates that get prompts of their own if they need it.")
    ] = 0,
    block: Annotated[int, typer.Option(min=4, help="Examples between two looks.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    json: Json = False,
) -> None:
    """Find the smallest model on which a program still passes its own metric.

    Run it again with the same question and it goes on where it stopped. Exit code 1 says that no
    candidate keeps to all goals.

    Example: dspy-tk compress run ARTIFACT --model embedded --goal 'score>=baseline-0.02'
    """
    from dspy_toolkit.cli.compression_report import show_report
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compression.make import run_pipeline

    with nullcontext() if json else live_progress():
        report = run_pipeline(
            path,
            model,
            goal or [],
            task=task,
            candidates=candidate,
            recompile=recompile,
            block=block,
            seed=seed,
        )
    if json:
        out_json(report)
    else:
        show_report(report)
    if report["recommended"] is None:
        raise typer.Exit(NONE_FOUND)


@app.command()
def export(
    model: Model,
    to: Annotated[str, typer.Option(help="gguf, onnx or safetensors.")],
    output: Annotated[Path, typer.Option(help="A new folder.")],
    dtype: Annotated[str, typer.Option("--type", help="Of gguf: f32, f16 or q8_0.")] = "f16",
    json: Json = False,
) -> None:
    """Write a model for llama.cpp, ONNX Runtime or transformers, and check that it answers alike.

    Example: dspy-tk compress export embedded --to onnx --output exported
    """
    from dspy_toolkit.compression.make import export_model

    made = export_model(model, to, output, dtype)
    if json:
        out_json(made)
        return
    table(
        f"{model} for {to}",
        ("", "result"),
        [
            ("file", str(Path(made["folder"]) / made["file"])),
            ("size", _size(made["size_bytes"])),
            ("checked with", made["checked_with"]),
            ("same answers", f"{made['same_answers']} of {made['of']} probes"),
            ("largest error", f"{made['largest_error']:.2g} of the largest logit"),
            ("not checked", made["not_checked"] or "nothing"),
        ],
    )


def _make(
    model: str,
    method: str,
    options: Mapping[str, Any],
    task: Path | None,
    calibration: str | None,
    output: Path | None,
    json: bool,
) -> None:
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compression.make import make

    given = {name: value for name, value in options.items() if value is not None}
    with nullcontext() if json else live_progress():
        built = make(model, method, given, task=task, calibration=calibration, output=output)
    if json:
        out_json({"folder": str(output or built.folder), "fresh": built.fresh, **built.manifest})
        return
    _show(built, output)


def _show(built: Built, output: Path | None) -> None:
    measures = built.measures
    before, after = measures["parent_bytes"], measures["bytes"]
    rows = [
        ("weights", f"{_size(before)} to {_size(after)}, {100 * after / before:.0f} %"),
        ("parameters", f"{measures['parent_parameters']:,} to {measures['parameters']:,}"),
        ("bits a weight", f"{measures['bits_per_weight']:g}"),
    ]
    if "kl" in measures:
        rows += [
            ("divergence", f"{measures['kl']:.4g} nats a token of held-out answers"),
            ("same choice", f"{100 * measures['agreement']:.1f} % of {measures['tokens']} tokens"),
        ]
    rows.append(("made in", f"{measures['seconds']:.1f} s" if built.fresh else "an earlier run"))
    rows.append(("model", str(output or built.folder)))
    table(built.folder.name, ("", "result"), rows)
    say(f"use it: dspy-tk evaluate TASK --model {output or built.folder}")


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} bytes"
