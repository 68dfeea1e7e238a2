from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.engine.blas import candidates
from dspy_toolkit.engine.speed import matmul_gflops, measure

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX uses the system's own")


def fresh(code: str) -> Any:
    """Run code in a process of its own; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def preload(setting: str, before: str = "") -> tuple[bool, str]:
    code = (
        f"{before}\nimport json\nfrom dspy_toolkit.engine.blas import preload_blas\n"
        f"report = preload_blas({setting!r})\n"
        "print(json.dumps([report.loaded, report.note]))"
    )
    loaded, note = fresh(code)
    return loaded, note


def test_it_can_be_turned_off() -> None:
    assert preload("off") == (False, "turned off by the setting blas")


@linux
def test_it_is_no_use_once_mlx_is_imported() -> None:
    loaded, note = preload("auto", before="import mlx.core")

    assert not loaded
    assert "MLX was imported before" in note


@linux
def test_a_missing_library_is_reported() -> None:
    loaded, note = preload("/nowhere/libblas.so")

    assert not loaded
    assert "cannot be loaded" in note


@linux
def test_a_library_that_is_no_blas_is_reported() -> None:
    import _ctypes

    loaded, note = preload(_ctypes.__file__)

    assert not loaded
    assert "is no BLAS" in note


@linux
def test_the_first_call_decides_and_later_ones_repeat_it() -> None:
    code = (
        "import json\nfrom dspy_toolkit.engine.blas import preload_blas\n"
        "first = preload_blas('off')\nimport mlx.core\n"
        "print(json.dumps([first == preload_blas('auto'), first.loaded]))"
    )

    assert fresh(code) == [True, False]


@linux
@pytest.mark.skipif(not list(candidates()), reason="no fast BLAS is installed")
def test_a_fast_blas_makes_products_several_times_faster() -> None:
    stock, fast = measure("off"), measure("auto")

    assert fast.blas.loaded
    assert fast.gflops is not None
    assert stock.gflops is not None
    assert fast.gflops > 3 * stock.gflops


@linux
@pytest.mark.skipif(not any("mkl" in str(each) for each in candidates()), reason="needs MKL")
def test_no_thread_has_openmp_wait_busily_for_long() -> None:
    code = (
        "import ctypes, json, threading\n"
        "from dspy_toolkit.engine.blas import preload_blas\n"
        "path = preload_blas('auto').path\n"
        "openmp = ctypes.CDLL(str(path.parent / 'libiomp5.so'))\n"
        "waits = []\n"
        "thread = threading.Thread(target=lambda: waits.append(openmp.kmp_get_blocktime()))\n"
        "thread.start(), thread.join()\n"
        "print(json.dumps(waits))"
    )

    assert fresh(code) == [1]


@linux
@pytest.mark.skipif(not any("mkl" in str(each) for each in candidates()), reason="needs MKL")
def test_the_process_of_a_small_model_leaves_the_other_cores_to_others(tmp_path: Path) -> None:
    code = (
        "import ctypes, json, os\n"
        "os.environ['MKL_NUM_THREADS'] = '2'\nos.environ['MKL_DYNAMIC'] = 'FALSE'\n"
        "from dspy_toolkit.engine import blas\n"
        "from dspy_toolkit.engine.opening import open_described\n"
        "library = ctypes.CDLL(str(blas.preload_blas('auto').path))\n"
        "before = library.MKL_Get_Max_Threads()\n"
        f"open_described('embedded', {{}}, {{'home': {str(tmp_path)!r}}}).close()\n"
        "print(json.dumps([before, library.MKL_Get_Max_Threads()]))"
    )

    assert fresh(code) == [2, 1]


def test_a_process_that_fails_to_measure_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    measured = measure("auto")

    assert measured.gflops is None
    assert "FileNotFoundError" in measured.blas.note


def test_products_are_timed() -> None:
    assert matmul_gflops(seconds=0.01) > 0


def test_importing_the_engine_loads_neither_mlx_nor_dspy() -> None:
    code = (
        "import json, sys\nimport dspy_toolkit.engine\n"
        "heavy = ('mlx', 'mlx_lm', 'dspy', 'transformers', 'huggingface_hub', 'numpy')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )

    assert fresh(code) == []


@pytest.fixture(scope="module")
def left_open(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process saw of a model that it opened, and ended without closing."""
    home = str(tmp_path_factory.mktemp("home"))
    code = (
        "import json, resource\nfrom pathlib import Path\nfrom dspy import lm15\n"
        "from dspy_toolkit.config import Settings\nfrom dspy_toolkit.engine import open_engine\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))\n"
        f"engine = open_engine({str(model_folder)!r}, settings=Settings(home=Path({home!r})))\n"
        "soft, after = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "request = lm15.Request(model='m', messages=(lm15.Message.user('Hello'),))\n"
        "stream = engine.stream(request)\nheard = [next(stream).type, next(stream).type]\n"
        "files = [soft >= min(2048, hard), after == hard]\n"
        "print(json.dumps({'files': files, 'heard': heard}))"
    )
    return dict(fresh(code))


def test_opening_a_model_lowers_no_limit_of_open_files(left_open: dict[str, Any]) -> None:
    assert left_open["files"] == [True, True]


def test_a_process_may_end_without_closing_its_engine_even_while_it_generates(
    left_open: dict[str, Any],
) -> None:
    assert left_open["heard"] == ["start", "delta"]
