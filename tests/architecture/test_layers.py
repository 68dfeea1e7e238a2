"""The levels of docs/architecture.md, held against every import statement in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dspy_toolkit"

LEVELS: dict[str, int] = {
    "errors": 0,
    "config": 1,
    "events": 2,
    "store": 3,
    "contract": 4,
    **dict.fromkeys(("registry", "engine", "resilience", "monitoring", "costs"), 5),
    "programs": 6,
    **dict.fromkeys(("compiler", "training", "experiments"), 7),
    "compression": 8,
    **dict.fromkeys(("server", "deployment", "dashboard", "agents"), 9),
    "testing": 10,
    "cli": 10,
    "__init__": 11,
}

ALLOWED_ROOTS: dict[str, tuple[str, ...]] = {
    "mlx": ("engine", "compression", "training"),
    "mlx_lm": ("engine", "compression", "training"),
    "dspy": ("contract.py", "engine/bridge.py", "programs", "compiler"),
    "typer": ("cli",),
    "rich": ("cli",),
    "click": (),
    "sqlalchemy": ("store",),
    "pybreaker": ("resilience",),
    "tenacity": ("resilience",),
    "prometheus_client": ("monitoring",),
}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"

            module = node.module or ""
            if module == "dspy_toolkit":
                yield from (f"dspy_toolkit.{name.name}" for name in node.names)
            else:
                yield module


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_only_from_lower_levels(file: Path) -> None:
    own = part_of(file)
    used = {
        name.split(".")[1]
        for name in imports_of(file)
        if name.startswith("dspy_toolkit.") and name.split(".")[1] != own
    }

    wrong = {part for part in used if LEVELS[part] >= LEVELS[own]}

    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_libraries_appear_only_where_they_belong(file: Path) -> None:
    place = file.relative_to(PACKAGE).as_posix()
    roots = {name.split(".")[0] for name in imports_of(file)}

    wrong = {
        root
        for root in roots & ALLOWED_ROOTS.keys()
        if not any(place == spot or place.startswith(f"{spot}/") for spot in ALLOWED_ROOTS[root])
    }

    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_only_config_reads_the_environment(file: Path) -> None:
    text = file.read_text()

    reads = "os.environ" in text or "os.getenv" in text

    assert not reads or file == PACKAGE / "config.py"
