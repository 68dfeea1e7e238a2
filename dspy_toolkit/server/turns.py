"""Taking turns on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Lets those with much to do begin one after the other, each in a round of the loop of its own.

    What is quickly done, such as giving an answer again, comes between them. Use it on one loop.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def mine(self) -> None:
        """Wait for a round in which nobody else has begun."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
            return
        self._taken = True
        loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                loop.call_soon(self._next, loop)
                return
        self._taken = False
