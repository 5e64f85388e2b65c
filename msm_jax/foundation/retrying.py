"""Calls to a storage at a URL that are tried again where they fail for a reason that may pass.

There are five tries within about three seconds, beyond what the client of the storage does itself.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

_TRIES = 5
_PAUSE_SECONDS = 0.2
# What trying again does not mend.
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

log = logging.getLogger(__name__)


def call(what: str | os.PathLike[str], attempt: Callable[[], _Result]) -> _Result:
    """Returns what a call to the storage of `what` returns; says so where it is tried again.

    Raises:
        OSError, or another of `failures`: as the call, where it fails for good or with every try.
    """
    for failed in range(1, _TRIES):
        try:
            return attempt()
        except failures() as error:
            if _lasts(error):
                raise
            problem = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("%s: %s; trying again (%d of %d)", what, problem, failed, _TRIES - 1)
            time.sleep(_PAUSE_SECONDS * 2 ** (failed - 1))
    return attempt()


def failures() -> tuple[type[Exception], ...]:
    """Returns what a storage's client raises: gcsfs, imported only where it is used, has errors that are no OSError."""
    names = (("gcsfs.retry", "HttpError"), ("google.auth.exceptions", "GoogleAuthError"), ("aiohttp", "ClientError"))
    loaded = [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]
    return (OSError, *loaded)


def _lasts(error: BaseException) -> bool:
    """Returns whether an error is not one that may pass: too many requests, a server's fault, a broken connection."""
    if isinstance(error, _LASTING) or getattr(error, "errno", None) in _LASTING_NUMBERS:
        return True
    status = getattr(error, "code", getattr(error, "status", None))  # gcsfs's HttpError, aiohttp's ClientResponseError
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
