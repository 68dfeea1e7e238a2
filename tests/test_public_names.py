from __future__ import annotations

import subprocess
import sys

import pytest

import dspy_toolkit


def test_the_public_names_are_few_and_all_there() -> None:
    assert len(dspy_toolkit.__all__) <= 15
    assert all(hasattr(dspy_toolkit, name) for name in dspy_toolkit.__all__)
    assert dir(dspy_toolkit) == sorted(dspy_toolkit.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'compile_everything'"):
        dspy_toolkit.compile_everything  # noqa: B018 - the access is what is tested


@pytest.mark.parametrize(
    "code",
    [
        "import dspy_toolkit",
        "from dspy_toolkit.cli.main import main",
    ],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    heavy = {"mlx", "mlx_lm", "dspy", "numpy", "sqlalchemy", "transformers", "pydantic", "torch"}
    probe = f"import sys\n{code}\nprint(*sorted({heavy!r} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
