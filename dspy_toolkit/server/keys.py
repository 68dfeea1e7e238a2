"""Keys of callers: made once, shown once, kept only as salted hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, nearest
from dspy_toolkit.store.files import read_json, write_json
from dspy_toolkit.store.lock import waiting_for

PREFIX = "dtk"
FILE = "keys.json"
PROGRAMS, ADMIN = "programs", "admin"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class KeyRecord:
    """What is kept of a key.

    Attributes:
        id: the part of the key that is no secret.
        name: for people.
        scopes: "programs" (all of /v1), "programs:NAME" (that program or model alone) or "admin"
            (everything, metrics and the deep health check among it).
        salt, digest: SHA-256 over salt and secret, in hex. Secrets are 256 random bits, which no
            slow hash would protect better.
        created, expires: seconds since 1970; None never expires.
        per_minute: requests allowed in a minute; None sets no limit.
        revoked: since when it counts no more.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    salt: str
    digest: str
    created: float
    expires: float | None = None
    per_minute: int | None = None
    revoked: float | None = None

    def allows(self, scope: str, name: str | None = None) -> bool:
        """Whether a scope covers a thing, and the program or model of a name where one is asked."""
        if ADMIN in self.scopes:
            return True
        if scope != PROGRAMS:
            return False
        if PROGRAMS in self.scopes:
            return True
        return name is None or f"{PROGRAMS}:{name}" in self.scopes

    @property
    def limited_to(self) -> frozenset[str] | None:
        """The programs it may call, or None for all."""
        if ADMIN in self.scopes or PROGRAMS in self.scopes:
            return None
        return frozenset(scope.partition(":")[2] for scope in self.scopes)

    def state(self, now: float) -> str:
        """ "active", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


class Keys:
    """The keys of a home, in one file. A change by another process is seen at the next request.

    Args:
        file: where they lie; it need not exist.
        now: tells the time, in seconds since 1970.
    """

    def __init__(self, file: Path, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._now = now
        self._seen: tuple[int, int, int] | None = None
        self._records: dict[str, KeyRecord] = {}

    def create(
        self,
        name: str,
        scopes: Sequence[str] = (PROGRAMS,),
        *,
        days: float | None = None,
        per_minute: int | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key. Its text is given here and can never be had again.

        Raises:
            InvalidInput: the name is taken or odd, a scope is unknown, or a number is too small.
        """
        _check(name, scopes, days, per_minute)
        with waiting_for(self._file.parent, f"the keys in {self._file.parent}"):
            records = self._read()
            now = self._now()
            if any(each.name == name and each.state(now) == "active" for each in records.values()):
                raise InvalidInput(
                    f"a key called {name!r} exists; revoke it or choose another name"
                )
            id_, secret, salt = secrets.token_hex(4), secrets.token_hex(32), secrets.token_hex(16)
            record = KeyRecord(
                id=id_,
                name=name,
                scopes=tuple(scopes),
                salt=salt,
                digest=_digest(salt, secret),
                created=now,
                expires=None if days is None else now + days * 86400,
                per_minute=per_minute,
            )
            self._write({**records, id_: record})
        return f"{PREFIX}_{id_}_{secret}", record

    def revoke(self, name: str) -> KeyRecord:
        """End a key, by its name or id, for good.

        Raises:
            NotFound: no key is called so, or it has ended already.
        """
        with waiting_for(self._file.parent, f"the keys in {self._file.parent}"):
            records = self._read()
            active = [each for each in records.values() if each.state(self._now()) == "active"]
            found = next((each for each in active if name in (each.name, each.id)), None)
            if found is None:
                for each in records.values():
                    if name in (each.name, each.id):
                        raise NotFound(f"key {name!r} is {each.state(self._now())} already")
                known = [each.name for each in active]
                raise NotFound(f"no active key is called {name!r}; {nearest(name, known)}")
            revoked = replace(found, revoked=self._now())
            self._write({**records, found.id: revoked})
        return revoked

    def list(self) -> list[KeyRecord]:
        """All keys, the oldest first."""
        return sorted(self._read().values(), key=lambda each: each.created)

    @property
    def any_active(self) -> bool:
        """Whether a caller could have a key that counts."""
        return any(each.state(self._now()) == "active" for each in self._current().values())

    def known(self, text: str) -> KeyRecord | None:
        """The record of a key that a caller showed; None unless it is right and active.

        It takes as long for a wrong key as for a right one.
        """
        prefix, _, rest = text.partition("_")
        id_, _, secret = rest.partition("_")
        record = self._current().get(id_, _NOBODY)
        right = hmac.compare_digest(_digest(record.salt, secret), record.digest)
        good = right and prefix == PREFIX and record is not _NOBODY
        return record if good and record.state(self._now()) == "active" else None

    def _current(self) -> dict[str, KeyRecord]:
        try:
            stat = self._file.stat()
            mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            mark = (0, 0, 0)
        if mark != self._seen:
            self._records, self._seen = self._read(), mark
        return self._records

    def _read(self) -> dict[str, KeyRecord]:
        if not self._file.is_file():
            return {}
        kept = read_json(self._file, "key file")
        try:
            records = [_record(each) for each in kept["keys"]]
        except (KeyError, TypeError, AttributeError):
            raise IntegrityError(
                f"key file {self._file} is damaged; restore it, or remove it and make new keys"
            ) from None
        return {each.id: each for each in records}

    def _write(self, records: dict[str, KeyRecord]) -> None:
        known = [asdict(each) for each in records.values()]
        write_json(self._file, {"format": 1, "keys": known})
        self._file.chmod(0o600)
        self._seen = None


class RateLimits:
    """A bucket of tokens for each key: a minute's worth at most, filled evenly.

    Args:
        now: tells the time, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, record: KeyRecord) -> float:
        """0 where the request may pass, which counts it; else how long until one may."""
        if record.per_minute is None:
            return 0.0
        now = self._now()
        tokens, at = self._buckets.get(record.id, (float(record.per_minute), now))
        tokens = min(float(record.per_minute), tokens + (now - at) * record.per_minute / 60.0)
        if tokens < 1.0:
            self._buckets[record.id] = (tokens, now)
            return (1.0 - tokens) * 60.0 / record.per_minute
        self._buckets[record.id] = (tokens - 1.0, now)
        return 0.0


def _digest(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode(errors="surrogatepass")).hexdigest()


_NOBODY = KeyRecord("", "", (), "00" * 16, "00" * 32, 0.0)


def _record(values: dict[str, Any]) -> KeyRecord:
    known = {each.name: values[each.name] for each in fields(KeyRecord)}
    return KeyRecord(**{**known, "scopes": tuple(known["scopes"])})


def _check(name: str, scopes: Sequence[str], days: float | None, per_minute: int | None) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"a key's name is of a-z, 0-9, '.', '_' and '-', 64 at most, got {name!r}"
        )
    if not scopes:
        raise InvalidInput("a key needs a scope: programs, programs:NAME or admin")
    for scope in scopes:
        kind, _, what = scope.partition(":")
        if scope not in (PROGRAMS, ADMIN) and not (kind == PROGRAMS and what):
            raise InvalidInput(
                f"scope {scope!r} does not exist; give programs, programs:NAME or admin"
            )
    if days is not None and not days > 0:
        raise InvalidInput(f"a key lasts more than 0 days, got {days!r}")
    if per_minute is not None and per_minute < 1:
        raise InvalidInput(f"a key is allowed at least 1 request a minute, got {per_minute!r}")
