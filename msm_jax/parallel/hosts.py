"""What the hosts of a run tell each other outside of programs, in JSON through JAX's coordination service.

Unlike a collective, a wait here may take hours, and it ends when another host fails. A host that dies is noticed by the
coordination service, which ends the process of every other one; `supervisor` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # JAX has no public name for its coordination service

from msm_jax.errors import InputError, Preempted, WorkError, causes
from msm_jax.foundation.termination import Terminated, led_to
from msm_jax.parallel import distributed

_TURN_MILLISECONDS = 500
# How long a host that has heard of a failure elsewhere may take to end by itself. It may wait in a collective forever.
_GRACE_SECONDS = 5.0
_LEAVE_MILLISECONDS = 10_000
# How long a host takes from saying that it ends to its end.
_LAST_SECONDS = 1.0
_FAILED = "msm_jax/failed"
# What XLA and JAX call errors that another host may have caused. Their classes say less: some arrive as a ValueError,
# and who saves or loads a checkpoint says in words of its own what failed.
_STATUS = re.compile(r"\b(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): ")


class Hosts:
    """All processes of a run; to be used as a context manager in each of them, and in the same order of calls.

    An exception that leaves the context on one host ends all of them with its exit status, and process 0 says why.

    Attributes:
        index: the number of this process.
        count: the number of processes.
    """

    def __init__(self) -> None:
        """Needs `distributed.start` before it."""
        self.index, self.count = jax.process_index(), jax.process_count()
        self._client: Any = jax_distributed.global_state.client
        self._round = 0
        self._failure: dict[str, Any] | None = None
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Hosts:
        """Begins to listen for failures of other hosts."""
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells the other hosts of an error, and raises that of another host where it is the cause of this one."""
        follows = _may_follow(error)
        if follows:
            # Such as a connection that is closed: its other end may have died, or have failed and said so.
            self._await_cause()
        self._over.set()
        self._watcher.join(_GRACE_SECONDS)
        if error is not None:
            self._tell(error)
            self._leave()
        if self._failure is not None and follows:
            raise self._error(self._failure) from error

    def first(self, value: Any = None) -> Any:
        """Returns the value that process 0 gives; the others wait for it.

        Raises:
            InputError, WorkError, Preempted: another host has failed.
        """
        key = self._next()
        if self.index == 0:
            self._client.key_value_set(key, json.dumps(value))
        return json.loads(self._get(key))

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all hosts in their order; waits for the last one.

        Raises:
            InputError, WorkError, Preempted: another host has failed.
        """
        key = self._next()
        self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
        return [json.loads(self._get(f"{key}/{host}")) for host in range(self.count)]

    def _next(self) -> str:
        self._round += 1
        return f"msm_jax/{self._round}"

    def _get(self, key: str) -> str:
        while (found := self._peek(key)) is None:
            if self._failure is not None:
                raise self._error(self._failure)
        return found

    def _peek(self, key: str) -> str | None:
        """Returns the value of a key, None if it is not there within a turn."""
        try:
            return str(self._client.blocking_key_value_get(key, _TURN_MILLISECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            return None

    def _watch(self) -> None:
        """Ends this process after a failure elsewhere, if it does not end by itself."""
        # An error here means that process 0 has died, and JAX ends this one.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while (found := self._peek(_FAILED)) is None:
                if self._over.is_set():
                    return
            self._failure = failure = json.loads(found)
            if self._over.wait(_GRACE_SECONDS):
                return
            self._leave()
            print(f"{failure['kind']}: {self._error(failure)}", file=sys.stderr, flush=True)
            os._exit(failure["status"])

    def _tell(self, error: BaseException) -> None:
        if led_to(error):
            error = Terminated("stopped by SIGTERM")
        kinds = {InputError: ("refused", 2), Preempted: ("preempted", 75), Terminated: ("preempted", 75)}
        kind, status = next((said for cls, said in kinds.items() if isinstance(error, cls)), ("failed", 1))
        text = " ".join(str(error).split()) or type(error).__name__
        failure = {"process": self.index, "kind": kind, "status": status, "message": text}
        # The first failure counts.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(_FAILED, json.dumps(failure))

    def _leave(self) -> None:
        """Says that this host ends; process 0, through which the others hear of a failure, waits for them."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            if self.index:
                self._client.key_value_set(f"{_FAILED}/{self.index}", "")
                return
            for host in range(1, self.count):
                self._client.blocking_key_value_get(f"{_FAILED}/{host}", _LEAVE_MILLISECONDS)
            time.sleep(_LAST_SECONDS)

    def _await_cause(self) -> None:
        end = time.monotonic() + distributed.HEARTBEAT_SECONDS + _GRACE_SECONDS
        while self._failure is None and time.monotonic() < end:
            time.sleep(0.1)

    def _error(self, failure: dict[str, Any]) -> Exception:
        message = f"process {failure['process']} of {self.count}: {failure['message']}"
        return {"refused": InputError, "preempted": Preempted}.get(failure["kind"], WorkError)(message)


def _may_follow(error: BaseException | None) -> bool:
    """Returns whether an error, or what led to it, may have its cause on another host."""
    return any(_STATUS.search(str(each)) for each in causes(error))


def together() -> contextlib.AbstractContextManager[Any]:
    """Returns a `Hosts` where there are several, and a context that does nothing where there is one."""
    return Hosts() if jax.process_count() > 1 else contextlib.nullcontext()
