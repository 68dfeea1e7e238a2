from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Bundle, Deployments, PushOptions, differences, promote, rollback
from dspy_toolkit.deployment.bundle import check_bundle
from dspy_toolkit.deployment.promotion import NotPromoted
from dspy_toolkit.engine.source import EMBEDDED_FOLDER
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, ToolkitError
from dspy_toolkit.events import EngineSampled
from dspy_toolkit.programs.artifact import save_artifact
from dspy_toolkit.programs.modules import ModulePlan
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.resilience.storage import kept_states
from dspy_toolkit.server import Catalog, CatalogHealth
from tests.deployment.making import INPUTS, PROGRAM, with_scores, write_artifact, write_marked

POLICY = """
primary = "local"
[engines.local]
fallback = "default"
timeouts = { whole_s = 0.000001 }
retry = { attempts = 1 }
[engines.default]
breaker = false
shedding = false
[sources.default]
text = '''[[ ## team ## ]]
atlas

[[ ## urgent ## ]]
False

[[ ## completed ## ]]'''
"""


def test_a_push_makes_a_sealed_version_that_is_the_candidate(
    deployments: Deployments, settings: Settings, artifact: Path
) -> None:
    bundle, new = deployments.named("triage").push(artifact, settings, PushOptions())
    again, new_again = deployments.named("triage").push(artifact, settings, PushOptions())

    assert new
    assert not new_again
    assert again.version == bundle.version
    assert bundle.version.startswith("1-")
    assert deployments.find("triage").resolve("candidate") == bundle.version
    assert deployments.find("triage").versions == (bundle.version,)
    assert not [each.name for each in (bundle.folder.parent).iterdir() if each.name.startswith(".")]


def test_a_version_is_found_by_alias_number_and_digest(
    deployments: Deployments, bundle: Bundle
) -> None:
    deployment = deployments.find("triage")
    digest = bundle.version.partition("-")[2]

    for wanted in ("candidate", "4", "v4", bundle.version, digest[:6]):
        assert deployment.resolve(wanted) == bundle.version
    for wanted in ("production", "5", "zzzz"):
        with pytest.raises(NotFound):
            deployment.resolve(wanted)


def test_a_changed_file_is_found_before_anything_is_served(
    deployments: Deployments, bundle: Bundle
) -> None:
    state = bundle.folder / "artifact" / "program.json"
    state.write_text(state.read_text().replace("message", "massage", 1))

    with pytest.raises(IntegrityError, match="changed"):
        deployments.find("triage").bundle("candidate")


def test_a_model_in_a_folder_goes_along_and_the_bundle_needs_nothing_else(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    model = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "program.py").write_text(PROGRAM)
    plan = ModulePlan("program", None, tmp_path / "source", "program.py")
    lm = local_lm(str(model), max_tokens=16, settings=settings)
    facts = {"inputs": ["text"], "seed": 0, "prompt_format": "guided"}
    save_artifact(tmp_path / "a", plan.build(), plan, lm, facts)
    lm.release()
    options = PushOptions(smoke=INPUTS)
    bundle, _ = deployments.named("triage").push(tmp_path / "a", settings, options)
    for gone in (model, tmp_path / "a", tmp_path / "source"):
        shutil.rmtree(gone)

    assert (bundle.folder / "model" / "model.safetensors").is_file()
    assert str(tmp_path) not in (bundle.folder / "manifest.json").read_text()
    asyncio.run(check_bundle(bundle, settings))


def test_a_program_that_cannot_be_tried_needs_inputs_for_it(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    write_marked(tmp_path / "a", settings, "A")

    with pytest.raises(InvalidInput, match="--smoke"):
        deployments.named("t").push(tmp_path / "a", settings, PushOptions())
    with pytest.raises(InvalidInput, match="txt"):
        deployments.named("t").push(tmp_path / "a", settings, PushOptions(smoke={"txt": "x"}))
    assert deployments.named("t").versions == ()


def test_a_version_that_fails_its_smoke_test_is_never_made(
    deployments: Deployments, settings: Settings, artifact: Path
) -> None:
    inputs = {"text": "word " * 4000}

    with pytest.raises(Exception, match="too long"):
        deployments.named("t").push(artifact, settings, PushOptions(smoke=inputs))
    assert deployments.named("t").versions == ()
    assert deployments.named("t").aliases().versions == {}


def test_a_policy_goes_along_and_its_fallback_answers(
    deployments: Deployments, settings: Settings, artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    options = PushOptions(policy=tmp_path / "policy.toml")
    bundle, _ = deployments.named("t").push(artifact, settings, options)
    program = bundle.open(settings)
    answer = asyncio.run(program.call(INPUTS))
    program.close()

    circuits = {each.engine for each in kept_states(settings.home / "breakers")}

    assert circuits == {f"{bundle.version}.local"}
    assert answer.answered_by == ("default",)
    assert answer.outputs == {"team": "atlas", "urgent": False}
    assert program.primary == "local"


def test_a_program_that_only_its_fallback_answers_is_not_well_though_its_model_is(
    deployments: Deployments, settings: Settings, artifact: Path, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    options = PushOptions(policy=tmp_path / "policy.toml")
    guarded, _ = deployments.named("t").push(artifact, settings, options)
    catalog = Catalog()
    programs = [each.open(settings) for each in (guarded, bundle)]
    for program in programs:
        catalog.shelf.put(program)
    model = programs[0].lm.model
    health = CatalogHealth(catalog)
    status, told = health.check("deep")
    sampled = [each.model for each in health.samples() if isinstance(each, EngineSampled)]
    catalog.close()

    assert status == 503
    assert {each["subject"]: each["ok"] for each in told["findings"]} == {
        model: True,
        f"t {guarded.version} over {model}": False,
    }
    assert sampled == [model]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[sources.default]", "[sources.other]"), "other"),
        (("text = '''", "texts = '''"), "texts"),
        (('fallback = "default"', 'fallback = "defaut"'), "defaut"),
        (("text = '''", "url = '''"), "needs model"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_at_the_push(
    deployments: Deployments,
    settings: Settings,
    artifact: Path,
    tmp_path: Path,
    change: tuple[str, str],
    says: str,
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY.replace(*change))

    with pytest.raises(InvalidInput, match=says):
        deployments.named("t").push(
            artifact, settings, PushOptions(policy=tmp_path / "policy.toml")
        )


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [(None, NotFound, "does not exist"), (b"\xff", InvalidInput, "UTF-8")],
)
def test_a_policy_that_cannot_be_read_is_told(
    deployments: Deployments,
    settings: Settings,
    tmp_path: Path,
    content: bytes | None,
    error: type[ToolkitError],
    says: str,
) -> None:
    write_artifact(tmp_path / "a", settings)
    policy = tmp_path / "policy.toml"
    if content is not None:
        policy.write_bytes(content)

    with pytest.raises(error, match=says):
        deployments.named("t").push(tmp_path / "a", settings, PushOptions(policy=policy))


def test_only_what_is_shown_better_goes_into_production_and_back_again(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    versions = []
    for number, good in enumerate((40, 40, 95), start=1):
        folder = tmp_path / str(number) / "a"
        folder.parent.mkdir()
        scores = [1.0] * good + [0.0] * (100 - good)
        write_artifact(folder, settings, demos=number, **with_scores(folder, scores))
        bundle, _ = deployments.named("t").push(folder, settings, PushOptions())
        versions.append(bundle.version)
    deployment = deployments.find("t")
    first = promote(deployment, versions[0])
    with pytest.raises(NotPromoted, match="not shown better"):
        promote(deployment, versions[1])
    forced = promote(deployment, versions[1], anyway="same but cheaper")
    better = promote(deployment, versions[2])
    with pytest.raises(NotPromoted, match="worse"):
        promote(deployment, versions[0])

    assert first["after"] == versions[0]
    assert "same but cheaper" in forced["reason"]
    assert better["verdict"] == "better"
    assert rollback(deployment)["after"] == versions[1]
    assert rollback(deployment)["after"] == versions[0]
    with pytest.raises(NotFound):
        rollback(deployment)
    assert [move.how for move in deployment.aliases().moves if move.alias == "production"] == [
        "promote", "promote", "promote", "rollback", "rollback"
    ]  # fmt: skip


def test_without_common_test_examples_nothing_is_comparable(
    deployments: Deployments, settings: Settings, tmp_path: Path
) -> None:
    for number, test in enumerate(("one", "other"), start=1):
        folder = tmp_path / test / "a"
        folder.parent.mkdir()
        facts = with_scores(folder, [1.0] * 60, test)
        write_artifact(folder, settings, demos=number, **facts)
        deployments.named("t").push(folder, settings, PushOptions())
    deployment = deployments.find("t")
    promote(deployment, "1")

    with pytest.raises(NotPromoted, match="no test examples"):
        promote(deployment, "2")


def test_a_diff_names_what_differs_and_nothing_else(
    deployments: Deployments, bundle: Bundle
) -> None:
    deployment = deployments.find(bundle.name)
    found = differences(deployment.bundle("1"), deployment.bundle("2"))

    assert found["program.demos[1].text"] == (None, "message 1")
    assert all(name.startswith("program.demos") for name in found)
    assert differences(deployment.bundle("1"), deployment.bundle("1")) == {}


def test_collecting_keeps_what_is_pointed_to_what_was_before_and_the_newest(
    deployments: Deployments, bundle: Bundle
) -> None:
    deployment = deployments.find(bundle.name)
    versions = deployment.versions
    promote(deployment, "1", anyway="x")
    promote(deployment, "3", anyway="x")
    removed = deployment.collect(keep=1)

    assert removed == (versions[1],)
    assert deployment.versions == (versions[0], versions[2], versions[3])


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "-a", "a" * 65])
def test_a_deployment_has_a_plain_name(deployments: Deployments, name: str) -> None:
    with pytest.raises(InvalidInput):
        deployments.named(name)
