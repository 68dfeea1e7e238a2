from __future__ import annotations

import sys
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.modules import GIVEN, ModulePlan, build_module, plan_of
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.programs.user_code import load_function
from dspy_toolkit.registry import FieldRecord, SignatureRecord

RECORD = SignatureRecord(
    "route", "1.0.0", "Route it.", (FieldRecord("text", "str"),), (FieldRecord("team", "str"),)
)


def look_up(name: str) -> str:
    """Look a name up."""
    return name


@pytest.mark.parametrize(
    ("kind", "outputs"), [("predict", ["team"]), ("chain_of_thought", ["reasoning", "team"])]
)
def test_each_kind_builds_its_module(kind: str, outputs: list[str]) -> None:
    program = build_module(kind, dspy_signature(RECORD))

    assert list(program.predictors()[0].signature.output_fields) == outputs


def test_react_takes_tools_and_the_others_refuse_them() -> None:
    assert isinstance(build_module("react", dspy_signature(RECORD), [look_up]), dspy.ReAct)
    with pytest.raises(InvalidInput, match="'react' needs tools"):
        build_module("react", dspy_signature(RECORD))
    with pytest.raises(InvalidInput, match="takes no tools"):
        build_module("predict", dspy_signature(RECORD), [look_up])


@pytest.mark.parametrize("kind", ["predict", "chain_of_thought"])
def test_how_a_module_was_built_is_told_from_its_signature(kind: str) -> None:
    program = build_module(kind, dspy_signature(RECORD))
    plan = plan_of(program.reset_copy())

    assert (plan.kind, plan.signature) == (kind, RECORD)
    assert plan.build().dump_state() == program.dump_state()


def test_a_module_over_another_signature_can_only_be_given() -> None:
    changed = dspy_signature(RECORD).with_instructions("Do something else.")
    retyped = dspy_signature(RECORD).with_updated_fields("team", type_=int)

    for signature in (dspy.Signature("a -> b"), changed, retyped):
        assert plan_of(dspy.Predict(signature)).kind == GIVEN
    assert plan_of(dspy.ReAct(dspy_signature(RECORD), tools=[look_up])).kind == GIVEN


def test_functions_of_one_file_share_its_state(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text("seen = []\ndef add(x): seen.append(x)\ndef count(): return len(seen)\n")

    load_function(file, "add")(1)

    assert load_function(file, "count")() == 1


def test_files_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.py").write_text(f"WORD = {name!r}\n")
        (tmp_path / name / "metric.py").write_text("import words\ndef metric(): return words.WORD")

    words = [load_function(tmp_path / name / "metric.py", "metric")() for name in ("one", "two")]

    assert words == ["one", "two"]
    assert "words" not in sys.modules
    assert str(tmp_path / "one") not in sys.path


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "metric.py"
    file.write_text("def metric(): return 1\n")
    before = load_function(file, "metric")()
    file.write_text("def metric(): return 2\n")

    assert (before, load_function(file, "metric")()) == (1, 2)


@pytest.mark.parametrize("packaged", [True, False])
def test_packages_of_the_same_name_do_not_meet(tmp_path: Path, packaged: bool) -> None:
    for name in ("one", "two"):
        lib = tmp_path / name / "lib"
        lib.mkdir(parents=True)
        if packaged:
            (lib / "__init__.py").touch()
        (lib / "words.py").write_text(f"WORD = {name!r}\n")
        (tmp_path / name / "metric.py").write_text(
            "from lib.words import WORD\ndef metric(): return WORD"
        )

    words = [load_function(tmp_path / name / "metric.py", "metric")() for name in ("one", "two")]

    assert words == ["one", "two"]
    assert not {"lib", "lib.words"} & set(sys.modules)


def test_a_changed_module_beside_the_file_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text("WORD = 1\n")
    file = tmp_path / "metric.py"
    file.write_text("import words\ndef metric(): return words.WORD\n")
    before = load_function(file, "metric")()
    (tmp_path / "words.py").write_text("WORD = 22\n")

    assert (before, load_function(file, "metric")()) == (1, 22)


def test_packages_beside_a_program_travel_with_it(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "words.py").write_text("")
    (tmp_path / "program.py").write_text("")

    plan = ModulePlan("program", folder=tmp_path, program="program.py")

    assert plan.sources() == ("program.py", "lib/words.py")


def test_a_relative_path_means_the_working_folder_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("words.py").write_text(f"WORD = {name!r}\n")
        Path("metric.py").write_text("from words import WORD\ndef metric(): return WORD\n")
        words.append(load_function(Path("metric.py"), "metric")())

    assert words == ["one", "two"]
