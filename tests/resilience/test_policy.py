from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.errors import InvalidInput, NotFound, UnknownKey
from dspy_toolkit.resilience import (
    BreakerPolicy,
    BulkheadPolicy,
    EnginePolicy,
    Policy,
    RetryPolicy,
    SheddingPolicy,
    TimeoutPolicy,
    load_policy,
    policy_data,
    read_policy,
)

COMPLETE = """
primary = "local"
deadline_s = 30
attempts = 6

[defaults]
retry = {attempts = 2}
breaker = {window_s = 20, failure_rate = 0.4}

[engines.local]
fallback = "remote"
timeouts = {first_token_s = 5, whole_s = 20}

[engines.remote]
fallback = "canned"
retry = {first_wait_s = 1.0}
breaker = {window_calls = 30}

[engines.canned]
reserve_s = 0.5
breaker = false
shedding = false
"""


def engine(**settings: Any) -> dict[str, Any]:
    return {"primary": "a", "engines": {"a": settings}}


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no primary": ({"engines": {"a": {}}}, "no primary"),
    "unknown primary": ({"primary": "locl", "engines": {"local": {}}}, "did you mean 'local'"),
    "no engines": ({"primary": "a"}, "none is known"),
    "fallback to itself": (engine(fallback="a"), "falls back to itself"),
    "unknown fallback": (engine(fallback="b"), "its fallback 'b' is no engine"),
    "a circle": (
        {
            "primary": "a",
            "engines": {"a": {"fallback": "b"}, "b": {"fallback": "c"}, "c": {"fallback": "b"}},
        },
        "circle: b -> c -> b",
    ),
    "an engine never asked": (
        {"primary": "a", "engines": {"a": {}, "b": {}}},
        "'b' is neither the primary nor a fallback",
    ),
    "a timeout longer than the deadline": (
        {"deadline_s": 5, **engine(timeouts={"whole_s": 6})},
        "whole_s = 6 is longer than the deadline_s = 5",
    ),
    "a timeout longer than what its fallbacks leave": (
        {
            "primary": "a",
            "deadline_s": 5,
            "engines": {
                "a": {"fallback": "b", "timeouts": {"whole_s": 4}},
                "b": {"reserve_s": 2},
            },
        },
        "less the 2 s its fallbacks keep",
    ),
    "fallbacks that keep the whole deadline": (
        {
            "primary": "a",
            "deadline_s": 5,
            "engines": {"a": {"fallback": "b"}, "b": {"reserve_s": 5}},
        },
        "leaves the primary engine none",
    ),
    "time kept for the primary": (engine(reserve_s=1), "is asked first"),
    "a wait as long as the deadline": (
        {"deadline_s": 1, **engine(retry={"first_wait_s": 2, "max_wait_s": 3})},
        "leaves no time for a second attempt",
    ),
    "fewer attempts than engines": (
        {"primary": "a", "attempts": 1, "engines": {"a": {"fallback": "b"}, "b": {}}},
        "fewer than the 2 engines",
    ),
    "a token timeout beyond the whole": (
        engine(timeouts={"first_token_s": 3, "whole_s": 2}),
        "first_token_s = 3 is longer than whole_s = 2",
    ),
    "slow beyond the timeout": (
        engine(timeouts={"whole_s": 2}, breaker={"slow_call_s": 2}),
        "slow_call_s = 2 is not below whole_s",
    ),
    "more calls needed than remembered": (
        engine(breaker={"window_calls": 5, "minimum_calls": 6}),
        "would never open",
    ),
    "two windows": (engine(breaker={"window_calls": 50, "window_s": 5}), "not both"),
    "a first wait beyond the longest": (
        engine(retry={"first_wait_s": 5, "max_wait_s": 1}),
        "first_wait_s = 5 is longer than max_wait_s",
    ),
    "no time": (engine(timeouts={"whole_s": 0}), "whole_s must be a number of seconds above 0"),
    "a text for seconds": ({"deadline_s": "5", **engine()}, "deadline_s must be a number"),
    "truth for a number": (engine(retry={"attempts": True}), "attempts must be a whole number"),
    "no such share": (engine(breaker={"failure_rate": 1.5}), "share in (0, 1]"),
    "jitter": (engine(retry={"jitter": -1}), "jitter must lie in [0, 1]"),
    "quantile": (engine(shedding={"quantile": 2}), "quantile must lie in [0, 1]"),
    "a negative reserve": (engine(reserve_s=-1), "reserve_s must be 0 or more"),
    "a number for a name": (engine(fallback=1), "fallback must be the name"),
    "no table": ({"primary": "a", "engines": {"a": 1}}, "must be a table"),
    "timeouts switched off": (engine(timeouts=False), "must be a table"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_policy_that_contradicts_itself_is_refused_with_the_reason(name: str) -> None:
    values, reason = CONTRADICTIONS[name]

    with pytest.raises(InvalidInput, match=re.escape(reason)) as refusal:
        read_policy(values)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ({"deadline": 3, **engine()}, "deadline_s"),
        (engine(falback="b"), "fallback"),
        (engine(retry={"atempts": 3}), "attempts"),
        ({"defaults": {"retries": {}}, **engine()}, "retry"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(values: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UnknownKey, match=f"did you mean '{nearest}'"):
        read_policy(values)


def test_a_file_says_the_same_as_python(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(COMPLETE)
    breaker = BreakerPolicy(window_s=20, failure_rate=0.4)

    assert load_policy(file) == Policy(
        primary="local",
        deadline_s=30,
        attempts=6,
        engines={
            "local": EnginePolicy(
                fallback="remote",
                timeouts=TimeoutPolicy(first_token_s=5, whole_s=20),
                retry=RetryPolicy(attempts=2),
                breaker=breaker,
            ),
            "remote": EnginePolicy(
                fallback="canned",
                retry=RetryPolicy(attempts=2, first_wait_s=1.0),
                breaker=BreakerPolicy(window_calls=30, failure_rate=0.4),
            ),
            "canned": EnginePolicy(
                reserve_s=0.5, retry=RetryPolicy(attempts=2), breaker=None, shedding=None
            ),
        },
    )
    assert load_policy(file).chain == ("local", "remote", "canned")


def test_a_policy_survives_being_written_as_data(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(COMPLETE)
    policy = load_policy(file)

    assert read_policy(policy_data(policy)) == policy


def test_the_policy_in_the_guide_is_sound() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "resilience.md").read_text()
    example = guide.split("```toml\n")[1].split("```")[0]

    assert read_policy(tomllib.loads(example)).chain == ("local", "remote", "default")


def test_defaults_of_every_part_are_sound() -> None:
    policy = Policy("a", {"a": EnginePolicy()})

    assert policy.engines["a"] == EnginePolicy(
        bulkhead=BulkheadPolicy(),
        timeouts=TimeoutPolicy(),
        breaker=BreakerPolicy(window_calls=50),
        retry=RetryPolicy(),
        shedding=SheddingPolicy(),
    )


def test_a_missing_file_and_a_broken_one_are_told_apart(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("primary = ")

    with pytest.raises(NotFound, match="does not exist"):
        load_policy(tmp_path / "none.toml")
    with pytest.raises(InvalidInput, match="not valid TOML"):
        load_policy(broken)
