"""The alert rules speak of metrics and labels that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dspy_toolkit.monitoring import CATALOG

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ENDINGS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
SERIES = {facts.name + end: facts for facts in CATALOG for end in ENDINGS[facts.kind]}
WINDOWED = re.compile(r"(?:rate|increase)\((\w+)\[(\d+)([mh])\]\)")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_names_only_metrics_that_exist(rule: dict[str, Any]) -> None:
    names = set(re.findall(r"dspy_tk_\w+", rule["expr"]))

    assert names - SERIES.keys() == set()
    assert names or "up{" in rule["expr"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_counts_are_looked_at_by_their_growth_and_nothing_else_is(rule: dict[str, Any]) -> None:
    grown = {name for name, _, _ in WINDOWED.findall(rule["expr"])}
    plain = set(re.findall(r"dspy_tk_\w+", rule["expr"])) - grown

    assert all(SERIES[name].kind != "gauge" for name in grown)
    assert all(SERIES[name].kind == "gauge" for name in plain)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_groups_and_tells_by_labels_its_metrics_have(rule: dict[str, Any]) -> None:
    names = re.findall(r"dspy_tk_\w+", rule["expr"])
    labels = {label for name in names for label in SERIES[name].labels} | {"le", "instance"}
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))

    assert grouped | told <= labels
    assert not grouped or told <= grouped


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_balanced_and_says_what_to_do(rule: dict[str, Any]) -> None:
    expression = rule["expr"]

    assert expression.count("(") == expression.count(")")
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "action"}


def test_every_rule_has_a_name_of_its_own_and_prometheus_reads_the_file() -> None:
    names = [rule["alert"] for rule in RULES]
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())

    assert len(names) == len(set(names)) >= 10
    assert settings["rule_files"] == ["alerts.yml"]
    assert settings["scrape_configs"][0]["job_name"] == "dspy-tk"
