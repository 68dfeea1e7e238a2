"""Importing mlx-lm without losing the right to open files.

On import `mlx_lm.utils` sets the process's limit of open files to 2048, and its ceiling to 4096.
A server that was allowed a million sockets can never raise it again, and where the ceiling is
lower than 4096 already, the import fails.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

_ENOUGH = 2048


@contextmanager
def file_limit_kept() -> Iterator[None]:
    """Let code in the block set no limit; afterwards 2048 files may be open, where allowed."""
    set_limit = resource.setrlimit
    resource.setrlimit = _ignore
    try:
        yield
    finally:
        resource.setrlimit = set_limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _ENOUGH if hard == unlimited else min(_ENOUGH, hard)
    if soft != unlimited and soft < wanted:
        set_limit(resource.RLIMIT_NOFILE, (wanted, hard))


def _ignore(kind: int, limits: tuple[int, int], /) -> None:
    return None
