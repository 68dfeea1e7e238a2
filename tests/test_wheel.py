"""The wheel works where the repository is not: built, installed elsewhere, and used there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", target, ROOT],
        check=True,
        capture_output=True,
    )
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment that holds only the wheel; dependencies come from this one's folder.

    The editable install is not seen there: `.pth` files count only in site folders, and the
    dependencies arrive by PYTHONPATH.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "env", with_pip=False)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "env" / "bin" / "python", "install",
         "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def run(elsewhere: Path, *command: str) -> subprocess.CompletedProcess[str]:
    keep = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    # The fast BLAS is a dependency too, but it is looked for in the environment's own folder.
    fast = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    keep |= {"DSPY_TK_BLAS": str(fast[-1])} if fast else {}
    return subprocess.run(
        [elsewhere / "env" / "bin" / command[0], *command[1:]],
        cwd=elsewhere,
        env=keep
        | {
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "DSPY_TK_HOME": str(elsewhere / "home"),
            "HOME": str(elsewhere),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_signatures_and_the_embedded_model_and_no_more_than_it_should(
    wheel: Path,
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert any(name.startswith("dspy_toolkit/_data/signatures/classify/") for name in names)
    assert "dspy_toolkit/engine/embedded/model.safetensors" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dspy_toolkit"}
    assert wheel.stat().st_size < 16 * 2**20


def test_the_installed_package_is_the_wheel_and_not_the_checkout(elsewhere: Path) -> None:
    done = run(elsewhere, "python", "-c", "import dspy_toolkit; print(dspy_toolkit.__file__)")

    assert done.stdout.startswith(str(elsewhere)), done.stderr


def test_the_shipped_signatures_are_found_elsewhere(elsewhere: Path) -> None:
    done = run(elsewhere, "dspy-tk", "signatures", "show", "classify", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "classify"


def test_a_task_made_elsewhere_compiles_and_its_artifact_answers(elsewhere: Path) -> None:
    made = run(elsewhere, "dspy-tk", "init", "mine")
    assert made.returncode == 0, made.stderr
    for split in ("validation", "test"):
        file = elsewhere / "mine" / "data" / f"{split}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:4]))

    compiled = run(
        elsewhere, "dspy-tk", "compile", "mine", "--optimizer", "labeled_few_shot", "--json"
    )
    assert compiled.returncode == 0, compiled.stderr

    report = json.loads(compiled.stdout)
    line = json.loads((elsewhere / "mine" / "data" / "test.jsonl").read_text().splitlines()[0])
    answered = run(
        elsewhere,
        "dspy-tk",
        "run",
        report["artifact"],
        "--input",
        json.dumps({"text": line["text"]}),
    )

    assert answered.returncode == 0, answered.stderr
