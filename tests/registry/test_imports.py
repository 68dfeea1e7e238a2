from __future__ import annotations

import subprocess
import sys


def test_the_registry_loads_nothing_heavy_until_it_is_used() -> None:
    code = "import sys, dspy_toolkit.registry; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert {"pydantic", "dspy", "mlx", "typer", "rich"}.isdisjoint(loaded)
