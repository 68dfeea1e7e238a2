from __future__ import annotations

import subprocess
import sys

import pytest

from dspy_toolkit import resilience


def test_every_public_name_is_there() -> None:
    missing = [name for name in resilience.__all__ if not hasattr(resilience, name)]

    assert missing == []
    with pytest.raises(AttributeError, match="no attribute 'Polcy'"):
        _ = resilience.Polcy


def test_a_policy_is_read_and_refused_without_loading_dspy() -> None:
    code = (
        "import sys; from dspy_toolkit.resilience import load_policy, Policy, EnginePolicy;"
        "Policy('a', {'a': EnginePolicy()}); sys.exit('dspy' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
