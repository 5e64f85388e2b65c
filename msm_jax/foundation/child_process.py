"""Child processes that are spoken to in JSON: one message a line on their standard input and output."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, TextIO


class ChildProcess:
    """The parent's side of a child process and its two pipes. `selectors` take it as a file."""

    def __init__(
        self,
        command: Sequence[str],
        stderr: IO[Any] | int,
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Starts the child.

        Args:
            command: the program and its arguments.
            stderr: where its standard error goes, as for `subprocess.Popen`.
            environment: all of its environment variables; None for those of this process.
            own_session: whether it has a session of its own, so that Ctrl-C does not reach it.
            keep_open: file descriptors that it inherits.
        """
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=own_session,
            pass_fds=keep_open,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._unread = b""

    def fileno(self) -> int:
        """Returns the descriptor that is readable when the child has sent something or has ended."""
        return self._output.fileno()

    def send(self, message: Any) -> None:
        """Sends one message.

        Raises:
            BrokenPipeError: the child has ended.
        """
        self._input.write(json.dumps(message).encode() + b"\n")
        self._input.flush()

    def receive(self, seconds: float = float("inf")) -> Any:
        """Waits for the next message.

        Raises:
            TimeoutError: none arrived within `seconds`.
            EOFError: the child has ended.
        """
        waited = 0.0
        while b"\n" not in self._unread:
            # In turns of a second that count for no more: Ctrl-Z stops both processes, but not the clock.
            if not self._selector.select(min(1.0, seconds - waited)):
                waited += 1.0
                if waited >= seconds:
                    raise TimeoutError
            elif not self._read():
                raise EOFError
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def received(self) -> tuple[list[Any], bool]:
        """Returns the messages that have arrived, without waiting, and whether the child has closed its output."""
        open_ = True
        while open_ and self._selector.select(0):
            open_ = self._read()
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines], not open_

    def _read(self) -> bool:
        """Reads once, waiting if nothing is there; returns False at the end of the output."""
        content = os.read(self._output.fileno(), 1 << 20)
        self._unread += content
        return bool(content)

    def kill(self) -> int:
        """Ends the child and closes the pipes.

        Returns:
            The exit status of the child, or minus the number of the signal that had ended it before.
        """
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for stream in (self._input, self._output):
            try:
                stream.close()
            except BrokenPipeError:
                continue
        return self.process.returncode


def reserve_stdout() -> TextIO:
    """Returns the child's channel to its parent, and sends what anything else prints to standard error."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text stream outside tests
    return channel


def requests() -> Iterator[Any]:
    """Yields the messages that the parent sends, until it closes its end."""
    for line in sys.stdin:
        yield json.loads(line)


def reply(channel: TextIO, message: Any) -> None:
    """Sends one message to the parent.

    Raises:
        BrokenPipeError: the parent has ended.
    """
    channel.write(json.dumps(message) + "\n")
    channel.flush()
