"""The thread that keeps a child running: starts it, listens, watches, ends it, starts it again."""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from dspy_toolkit.contract import ConfigurationError
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, NotFound, ToolkitError
from dspy_toolkit.events import ChildEnded, ChildStarted, EngineSampled, emit
from dspy_toolkit.resilience.breaker import HALF_OPEN, OPEN, Breaker, Permit
from dspy_toolkit.resilience.clock import SystemClock
from dspy_toolkit.resilience.errors import CircuitOpen
from dspy_toolkit.resilience.policy import BreakerPolicy
from dspy_toolkit.resilience.supervised.calls import HeldCall, HeldCalls, Sink, starts
from dspy_toolkit.resilience.supervised.child import OUT_OF_MEMORY
from dspy_toolkit.resilience.supervised.life import Life, ending
from dspy_toolkit.resilience.supervised.opening import Opening
from dspy_toolkit.resilience.supervised.openings import FIRST, Openings
from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy
from dspy_toolkit.resilience.supervised.watch import MEMORY, Watch
from dspy_toolkit.resilience.supervised.wire import Frame, error_of, event_of

CLOSED = "closed"
CRASHED = "crashed"
NOT_LOADED = "not_loaded"

_KINDS: dict[int, type[ToolkitError]] = {
    each.exit_code: each for each in (NotFound, InvalidInput, IntegrityError, EngineError)
}


class Supervisor:
    """Keeps one process running, and the calls of the engines in it.

    Args:
        name: what events call the process.
        opening: its first engine, which loads what the others share.
    """

    def __init__(self, name: str, opening: Opening, policy: SupervisionPolicy) -> None:
        self.name = name
        self.calls = HeldCalls()
        self.sample: EngineSampled | None = None
        # Told once: what the first engine can do, or why it could not be opened.
        self.opened: Future[Frame] = Future()
        self.breaker = Breaker(
            name,
            BreakerPolicy(
                window_s=policy.window_s,
                minimum_calls=policy.crashes,
                failure_rate=1.0,
                open_s=policy.rest_s,
                probes=1,
            ),
            SystemClock(),
        )
        self._openings = Openings(opening)
        self._policy = policy
        self._life: Life | None = None
        self._crashes = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"dspy-tk {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether a process takes calls now."""
        return self._life is not None and not self.closed

    @property
    def closed(self) -> bool:
        """Whether it has ended for good."""
        return self._closing.is_set()

    @property
    def process_id(self) -> int | None:
        """Of the process that takes calls now."""
        life = self._life
        return None if life is None else life.process_id

    def join(self, opening: Opening) -> int | None:
        """Have the process hold one more engine; returns its number, None where it has ended."""
        with self.calls.lock:
            return None if self.closed else self._openings.add(opening)

    def abilities(self, number: int) -> Frame:
        """What an engine of the process can do, once it is open.

        Raises:
            NotFound, InvalidInput, IntegrityError, EngineError: it cannot be opened.
        """
        first = self.opened.result()
        opening = self._openings.all().get(number)
        if opening is None or number == FIRST:
            return first
        inbox: SimpleQueue[Frame | Exception] = SimpleQueue()
        call = self.submit({"by": number, "opening": asdict(opening)}, inbox.put)
        try:
            frame = good(inbox.get(timeout=self._policy.load_s))
        except Empty:
            raise EngineError("the engine was not opened in time; raise load_s") from None
        finally:
            # Who stops waiting closes the engine, and the process then opens it for nobody.
            self.calls.drop(call)
        if "not_loaded" in frame:
            raise _not_opened(frame)
        abilities: Frame = frame["opened"]
        return abilities

    def submit(self, order: Frame, sink: Sink) -> HeldCall:
        """Take a call; it goes to the process at once, or to the next one.

        Raises:
            CircuitOpen: processes end too often. ConfigurationError: the engine is closed.
            InvalidRequestError: the order cannot be written as JSON.
        """
        call = self.calls.made(order, sink)
        with self.calls.lock:
            life = self._life
            self._refuse(ready=life is not None)
            call.sent = life is not None
            self.calls.hold(call)
        if life is not None:
            _order(life, call.line)
        return call

    def leave(self, call: HeldCall) -> None:
        """Nobody waits for a call any more."""
        if self.calls.drop(call):
            life = self._life
            if life is not None and call.sent:
                _order(life, {"cancel": call.number})

    def abandon(self, number: int) -> None:
        """Have an engine closed soon. Waits for nothing, so finalizers may call it."""
        self._openings.forget(number)

    def quit(self, number: int) -> None:
        """Close an engine. With the last one the process ends, and the calls in flight fail."""
        with self.calls.lock:
            life = self._life
            last = self._openings.drop(number)
            if last:
                self._closing.set()
        if last:
            if threading.current_thread() is not self._thread:
                self._thread.join()
        elif life is not None:
            _order(life, {"close": number})

    def _refuse(self, ready: bool) -> None:
        if self.closed:
            raise closed()
        view = self.breaker.view()
        if view.state == OPEN and view.tried_again_in_s:
            raise CircuitOpen(self.name, view.tried_again_in_s)
        if view.state == HALF_OPEN and not ready:
            raise CircuitOpen(self.name, None)

    def _run(self) -> None:
        try:
            while not self._ending():
                try:
                    permit = self.breaker.admit()
                except CircuitOpen as refusal:
                    wait_s = refusal.retry_after or self._policy.beat_s
                    self.calls.fail(partial(CircuitOpen, self.name, wait_s))
                    self._closing.wait(min(wait_s, self._policy.beat_s))
                    continue
                self._live_once(permit)
        finally:
            self._closing.set()
            if not self.opened.done():
                self.opened.set_exception(closed())
            self.calls.fail(closed)

    def _ending(self) -> bool:
        for number in self._openings.forgotten():
            self.quit(number)
        return self._closing.is_set()

    def _live_once(self, permit: Permit) -> None:
        began = time.monotonic()
        reason, status = CRASHED, 0
        given = self._openings.all()
        life = self._started(given)
        if life is not None:
            with contextlib.suppress(OSError):
                reason = self._live(life, given, began, permit)
            with self.calls.lock:
                self._life = None
            status = life.end(self._policy.silent_s if reason == CLOSED else 0.0)
        if self._closing.is_set():
            return
        # One that ended by itself or by another's hand; the rest were ended here.
        how = ending(status) if reason == CRASHED and life is not None else ""
        if reason == CRASHED and status == OUT_OF_MEMORY:
            reason = MEMORY
        if not self.opened.done():
            self.opened.set_exception(EngineError(_before_ready(reason, how)))
        if self.opened.exception() is not None:
            self._closing.set()
            return
        self._crashes += 1
        replayed, failed = self.calls.lost(self._policy.replays, reason)
        emit(ChildEnded(self.name, reason, replayed, failed, how))
        permit.ended(failed=True, seconds=time.monotonic() - began)
        self._closing.wait(self._back_off_s())

    def _started(self, openings: Mapping[int, Opening]) -> Life | None:
        try:
            return Life(openings, self._policy.beat_s)
        except OSError as error:
            if not self.opened.done():
                told = f"the engine's process could not be started: {error}"
                self.opened.set_exception(EngineError(told))
            return None

    def _back_off_s(self) -> float:
        policy = self._policy
        if self._crashes < 2:
            return 0.0
        return min(policy.first_wait_s * 2.0 ** min(self._crashes - 2, 32), policy.max_wait_s)

    def _live(self, life: Life, given: Iterable[int], began: float, permit: Permit) -> str:
        with selectors.DefaultSelector() as selector:
            selector.register(life.link, selectors.EVENT_READ)
            reason = self._load(life, selector, began)
            if reason is not None:
                return reason
            self._take_over(life, given)
            emit(ChildStarted(self.name, life.process_id, time.monotonic() - began))
            return self._serve(life, selector, permit)

    def _load(self, life: Life, selector: selectors.BaseSelector, began: float) -> str | None:
        while not self._ending():
            life.link.flush()
            if not selector.select(self._policy.beat_s):
                if time.monotonic() - began > self._policy.load_s:
                    return NOT_LOADED
                continue
            for frame in life.receive():
                if "event" in frame:
                    emit(event_of(frame))
                elif "not_loaded" in frame:
                    self._not_loaded(frame)
                    return NOT_LOADED
                elif "ready" in frame:
                    if not self.opened.done():
                        self.opened.set_result(frame["ready"])
                    return None
        return NOT_LOADED

    def _not_loaded(self, frame: Frame) -> None:
        if not self.opened.done():
            self.opened.set_exception(_not_opened(frame))

    def _take_over(self, life: Life, given: Iterable[int]) -> None:
        with self.calls.lock:
            self._life = life
            held = self._openings.all()
            for number in given:
                if number not in held:
                    life.link.send({"close": number})
            for call in self.calls.unsent():
                call.sent = True
                # Sent before the lock is free, so that nobody takes a call back before it is made.
                life.link.send(call.line)

    def _serve(self, life: Life, selector: selectors.BaseSelector, permit: Permit) -> str:
        policy = self._policy
        ready = looked = now = time.monotonic()
        watch = Watch(policy, ready)
        held = most = 0
        stable = False
        while not self._ending():
            found = selector.select(policy.beat_s / 2)
            before, now = now, time.monotonic()
            if now - before > policy.silent_s / 2:
                watch.overslept(now - before)
            watch.busy(now, self.calls.answers_due())
            for frame in life.receive() if found else ():
                held, most = self._heard(frame, watch, now, (held, most))
            life.link.flush()
            if now - looked < policy.beat_s / 2:
                continue
            looked = now
            limit = policy.memory_bytes or most
            holds = max(held, life.resident_bytes)
            verdict = watch.verdict(now, life.stopped, holds, limit)
            if verdict is not None:
                return verdict
            if not stable and now - ready > policy.stable_s:
                stable = True
                self._crashes = 0
                permit.ended(failed=False, seconds=now - ready)
                if self.breaker.view().state != "closed":
                    self.breaker.close()
        return CLOSED

    def _heard(
        self, frame: Frame, watch: Watch, now: float, memory: tuple[int, int]
    ) -> tuple[int, int]:
        if "call" in frame:
            if not starts(frame):
                watch.moved(now)
            self.calls.hand_over(frame)
        elif "beat" in frame:
            beat: dict[str, Any] = frame["beat"]
            watch.counted(now, beat["progress"])
            if beat["sample"] is not None:
                self.sample = EngineSampled(**beat["sample"])
            return beat["memory_bytes"], beat["memory_limit_bytes"]
        else:
            emit(event_of(frame))
        return memory


def _order(life: Life, frame: Frame | bytes) -> None:
    try:
        life.link.send(frame)
    except OSError:
        # The process is gone; its supervisor is about to see that, and has the call.
        return


def closed() -> Exception:
    """What calls of an engine that was closed end with."""
    error: Exception = ConfigurationError("the engine is closed; open it again")
    return error


def good(message: Frame | Exception) -> Frame:
    """What came for a call, if it is no error."""
    if isinstance(message, Exception):
        raise message
    if "error" in message:
        raise error_of(message["error"])
    return message


def _not_opened(frame: Frame) -> ToolkitError:
    kind = _KINDS.get(frame["exit_code"], EngineError)
    return kind(frame["not_loaded"])


def _before_ready(reason: str, how: str) -> str:
    if reason == NOT_LOADED:
        return "the engine's process did not get ready in time; raise load_s"
    return f"the engine's process ended ({how}) while its model was loaded"
