from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.server.gateway import needs_keys
from dspy_toolkit.server.keys import KeyRecord, Keys, RateLimits
from dspy_toolkit.server.running import keys_for


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> Keys:
    return Keys(tmp_path / "home" / "keys.json", clock)


def test_a_key_is_known_by_its_text_and_only_its_hash_is_kept(keys: Keys, tmp_path: Path) -> None:
    text, record = keys.create("robot")
    kept = (tmp_path / "home" / "keys.json").read_text()

    assert keys.known(text) == record
    assert text.rpartition("_")[2] not in kept
    assert (tmp_path / "home" / "keys.json").stat().st_mode & 0o077 == 0


def test_equal_secrets_would_have_different_hashes(keys: Keys) -> None:
    first, second = keys.create("one")[1], keys.create("two")[1]

    assert first.salt != second.salt


@given(st.text(max_size=80))
def test_no_other_text_is_a_key(text: str) -> None:
    keys = Keys(Path("nowhere.json"))

    assert keys.known(text) is None


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t[:-1], lambda t: t + "0", lambda t: "x" + t]
)
def test_a_changed_key_is_refused(keys: Keys, change: object) -> None:
    text, _ = keys.create("robot")

    assert callable(change)
    assert keys.known(change(text)) is None


def test_a_key_ends_when_it_expires(keys: Keys, clock: Clock) -> None:
    text, _ = keys.create("guest", days=1)
    clock.now += 86399
    before = keys.known(text)
    clock.now += 1

    assert before is not None
    assert keys.known(text) is None
    assert not keys.any_active


def test_a_key_that_has_ended_is_not_taken_for_another(keys: Keys, clock: Clock) -> None:
    keys.create("robot")
    keys.create("robot-2", days=1)
    keys.revoke("robot")
    clock.now += 2 * 86400

    for name, state in (("robot", "revoked"), ("robot-2", "expired")):
        with pytest.raises(NotFound, match=f"'{name}' is {state} already"):
            keys.revoke(name)


def test_a_revocation_by_another_process_is_seen_at_the_next_request(
    keys: Keys, tmp_path: Path
) -> None:
    text, _ = keys.create("robot")
    seen = keys.known(text)
    Keys(tmp_path / "home" / "keys.json").revoke("robot")

    assert seen is not None
    assert keys.known(text) is None
    with pytest.raises(NotFound):
        keys.revoke("robot")


@pytest.mark.parametrize(
    ("scopes", "scope", "name", "allowed"),
    [
        (["admin"], "admin", None, True),
        (["admin"], "programs", "triage", True),
        (["programs"], "programs", "triage", True),
        (["programs"], "admin", None, False),
        (["programs:triage"], "programs", None, True),
        (["programs:triage"], "programs", "triage", True),
        (["programs:triage"], "programs", "other", False),
        (["programs:triage", "programs:other"], "programs", "other", True),
    ],
)
def test_scopes_cover_what_they_say(
    keys: Keys, scopes: list[str], scope: str, name: str | None, allowed: bool
) -> None:
    _, record = keys.create("robot", scopes)

    assert record.allows(scope, name) is allowed


@pytest.mark.parametrize(
    ("name", "scopes", "days", "per_minute"),
    [
        ("A name", ["programs"], None, None),
        ("robot", ["all"], None, None),
        ("robot", ["programs:"], None, None),
        ("robot", [], None, None),
        ("robot", ["admin"], 0, None),
        ("robot", ["admin"], None, 0),
    ],
)
def test_odd_keys_are_not_made(
    keys: Keys, name: str, scopes: list[str], days: float | None, per_minute: int | None
) -> None:
    with pytest.raises(InvalidInput):
        keys.create(name, scopes, days=days, per_minute=per_minute)


def test_two_active_keys_have_two_names(keys: Keys) -> None:
    keys.create("robot")

    with pytest.raises(InvalidInput, match="exists"):
        keys.create("robot")
    keys.revoke("robot")
    keys.create("robot")


def test_a_damaged_key_file_lets_nobody_in(keys: Keys, tmp_path: Path) -> None:
    text, _ = keys.create("robot")
    (tmp_path / "home" / "keys.json").write_text(json.dumps({"keys": [{"id": "x"}]}))

    with pytest.raises(IntegrityError):
        keys.known(text)


@given(
    per_minute=st.integers(1, 120),
    waits=st.lists(st.floats(0, 30), min_size=1, max_size=200),
)
def test_no_minute_sees_more_than_a_bucket_and_its_refill(
    per_minute: int, waits: list[float]
) -> None:
    clock = Clock()
    limits = RateLimits(clock)
    record = KeyRecord("k", "k", ("programs",), "", "", 0.0, per_minute=per_minute)
    passed: list[float] = []
    for wait in waits:
        clock.now += wait
        wait_s = limits.wait_s(record)
        if wait_s == 0:
            passed.append(clock.now)
        else:
            assert 0 < wait_s <= 60.0 / per_minute + 1e-6

    for start in passed:
        inside = sum(start <= at < start + 60 for at in passed)
        assert inside <= 2 * per_minute


def test_a_refused_request_may_pass_after_the_wait_it_was_told() -> None:
    clock = Clock()
    limits = RateLimits(clock)
    record = KeyRecord("k", "k", ("programs",), "", "", 0.0, per_minute=2)

    assert [limits.wait_s(record) for _ in range(2)] == [0.0, 0.0]
    wait_s = limits.wait_s(record)
    assert wait_s == pytest.approx(30.0)
    clock.now += wait_s
    assert limits.wait_s(record) == 0.0


@pytest.mark.parametrize(
    ("address", "needed"),
    [
        ("127.0.0.1", False),
        ("127.8.9.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.4", True),
        ("myhost", True),
    ],
)
def test_only_this_machine_alone_needs_no_keys(address: str, needed: bool) -> None:
    assert needs_keys(address) is needed


def test_other_machines_never_come_in_without_keys(keys: Keys) -> None:
    with pytest.raises(InvalidInput, match="keys create"):
        keys_for("0.0.0.0", keys, open_to_all=False)
    with pytest.raises(InvalidInput, match="--no-keys"):
        keys_for("0.0.0.0", keys, open_to_all=True)
    assert keys_for("127.0.0.1", keys, open_to_all=True) is None
    keys.create("robot")
    assert keys_for("0.0.0.0", keys, open_to_all=False) is keys
    assert keys_for("127.0.0.1", keys, open_to_all=True) is None
