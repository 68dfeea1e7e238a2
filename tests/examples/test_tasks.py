"""What holds for the data of one example only."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

import pytest

from dspy_toolkit.registry import load_file
from tests.examples.reading import COUNTS, EXAMPLES, rows_of, words


@pytest.mark.parametrize("split", COUNTS)
def test_every_team_has_as_many_urgent_tickets_as_others(split: str) -> None:
    pairs = Counter((row["team"], row["urgency"]) for row in rows_of("ticket_triage", split))

    assert len(pairs) == 8
    assert set(pairs.values()) == {COUNTS[split] // 8}


@pytest.mark.parametrize("split", COUNTS)
def test_tickets_are_short(split: str) -> None:
    lengths = [len(row["ticket"].split()) for row in rows_of("ticket_triage", split)]

    assert min(lengths) >= 8
    assert max(lengths) <= 25


def test_nothing_but_examples_tells_what_a_team_does() -> None:
    record = load_file(EXAMPLES / "ticket_triage" / "signature.toml")
    told = [record.instructions, *(each.description for each in (*record.inputs, *record.outputs))]
    revealing = {"card", "bill", "payment", "parcel", "delivery", "account", "login", "broken"}

    assert not revealing & set(words(" ".join(told)))
    assert not record.examples


@pytest.mark.parametrize("split", COUNTS)
def test_half_of_the_orders_are_express_and_all_list_their_goods(split: str) -> None:
    rows = rows_of("order_extraction", split)

    assert sum(row["express"] for row in rows) == COUNTS[split] // 2
    assert {len(row["goods"]) for row in rows} == {1, 2, 3}


@pytest.mark.parametrize("split", COUNTS)
def test_customer_total_and_goods_stand_in_the_email(split: str) -> None:
    for row in rows_of("order_extraction", split):
        assert row["customer"] in row["email"]
        assert f"{row['total']:,.2f}" in row["email"]
        for item in row["goods"]:
            # Plurals end in many ways: knives, mice.
            assert item["name"][:4] in row["email"]


@pytest.mark.parametrize("split", COUNTS)
def test_only_an_email_that_mentions_express_asks_for_it(split: str) -> None:
    asking = [row["email"] for row in rows_of("order_extraction", split) if row["express"]]

    assert all("express" in email.lower() for email in asking)


@pytest.mark.parametrize("split", COUNTS)
def test_as_many_answers_are_yes_as_no(split: str) -> None:
    answers = Counter(row["answer"] for row in rows_of("policy_answers", split))

    assert answers["yes"] == answers["no"] >= COUNTS[split] // 5


@pytest.mark.parametrize("split", COUNTS)
def test_other_answers_stand_in_the_policy(split: str) -> None:
    rows = [row for row in rows_of("policy_answers", split) if row["answer"] not in ("yes", "no")]

    assert all(row["answer"].lower() in row["context"].lower() for row in rows)


@pytest.mark.parametrize("split", COUNTS)
def test_a_policy_has_three_to_six_sentences(split: str) -> None:
    counts = {
        len(re.findall(r"\.( |$)", row["context"])) for row in rows_of("policy_answers", split)
    }

    assert counts <= {3, 4, 5, 6}


@pytest.mark.parametrize("split", COUNTS)
def test_yes_means_that_the_number_keeps_to_the_limit_of_the_policy(split: str) -> None:
    wording = EXAMPLES / "policy_answers" / "wording" / f"{split}.toml"
    checked = 0
    for policy in tomllib.loads(wording.read_text("utf-8"))["policy"]:
        for question, slot, allowed in policy["limits"]:
            rule = next(rule for rule in policy["rules"] if f"{{{slot}}}" in rule)
            for row in rows_of("policy_answers", split):
                asked = number_in(row["question"], question)
                if asked is None:
                    continue
                limit = number_in(row["context"], rule)
                checked += 1

                assert limit is not None
                assert asked != limit
                assert (row["answer"] == "yes") == ((asked > limit) == (allowed == "at_least"))

    assert checked == sum(
        row["answer"] in ("yes", "no") for row in rows_of("policy_answers", split)
    )


def number_in(text: str, template: str) -> int | None:
    """The number that stands in the text where the template has a name in braces."""
    found = re.search(re.sub(r"\\{\w+\\}", r"(\\d+)", re.escape(template)), text)
    return int(found[1]) if found else None
