from __future__ import annotations

import pytest

from dspy_toolkit.registry import SignatureRecord, check, list_records, validate_values
from dspy_toolkit.registry.lookup import shipped

RECORDS = list_records()


def test_the_common_and_the_machine_learning_signatures_are_there() -> None:
    names = {record.name for record in RECORDS}

    assert names >= {"classify", "extract", "answer", "summarise", "rewrite", "judge"}
    assert names >= {"propose_trial", "propose_architecture", "plan_sharding"}
    assert names >= {"describe_image", "ask_image"}


def test_no_shipped_file_has_a_defect() -> None:
    assert check(shipped()) == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.reference)
def test_each_shows_by_example_what_goes_in_and_out(record: SignatureRecord) -> None:
    assert len(record.examples) >= 2
    for example in record.examples:
        validate_values(record, "inputs", example["inputs"])
        validate_values(record, "outputs", example["outputs"])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.reference)
def test_each_field_is_described(record: SignatureRecord) -> None:
    assert all(field.description for field in (*record.inputs, *record.outputs))


def test_examples_of_classify_choose_among_the_options() -> None:
    (classify,) = [record for record in RECORDS if record.reference == "classify@1.0.0"]

    for example in classify.examples:
        assert example["outputs"]["label"] in example["inputs"]["options"]


def test_examples_of_summarise_keep_the_limit() -> None:
    (summarise,) = [record for record in RECORDS if record.reference == "summarise@1.0.0"]

    for example in summarise.examples:
        words = example["outputs"]["summary"].split()
        assert len(words) <= example["inputs"]["max_words"]


def test_shares_of_planned_shards_add_up_and_fit_their_machines() -> None:
    (plan,) = [record for record in RECORDS if record.reference == "plan_sharding@1.0.0"]

    for example in plan.examples:
        machines = {each["name"]: each for each in example["inputs"]["machines"]}
        shards = example["outputs"]["shards"]
        assert sum(shard["share"] for shard in shards) == pytest.approx(1)
        for shard in shards:
            assert shard["memory_gb"] <= machines[shard["machine"]]["memory_gb"]
