"""From the request for a slice to the end of the command on it, over as many slices as preemptions make it take."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import commands
from launch.commands import Job
from msm_jax.errors import InputError, Preempted, WorkError

# States of a queued resource: cloud.google.com/tpu/docs/queued-resources. ACCEPTED is an older name of WAITING_FOR_….
_WAITING = {"", "STATE_UNSPECIFIED", "CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"}
_ACTIVE = "ACTIVE"
_GONE = "gone"
# Not bound to a line: the output of hosts is mixed, and one of them may be in the middle of a line.
_STATUS = re.compile(r"launch: host \S+ exit status (\d+)\b")
# Where a request does not go through, such as a moment without network, it is repeated this often.
_TRIES = 10
# How often a line is printed while nothing changes.
_SAY_EVERY_SECONDS = 300
_PREEMPTED = 75
_LOST = None


@dataclass(frozen=True)
class Limits:
    """How long and how often.

    Attributes:
        retries: how many more slices are asked for after the first one.
        poll_seconds: the time between two looks at the state.
        keep: whether the slice stays when the command has ended.
    """

    retries: int
    poll_seconds: float
    keep: bool


def outcome(statuses: Sequence[int], hosts: int, state: str) -> int | None:
    """Returns the exit status of a command that ran on several hosts, or None where the slice was lost.

    When one host goes, the processes on the others fail with statuses of their own. These say something only if every
    host has told its status and the slice is still there.
    """
    if len(statuses) >= hosts and not any(statuses):
        return 0
    if _PREEMPTED in statuses:
        return _PREEMPTED
    if len(statuses) < hosts or state != _ACTIVE:
        return _LOST
    # A refusal is the cause; the other hosts then fail because one is missing.
    return 2 if 2 in statuses else next(status for status in statuses if status)


def run(job: Job, limits: Limits, logs: Path) -> None:
    """Runs the command until it is complete, and deletes each slice after its use.

    Every command goes to LOGS/commands.log, and what it prints to LOGS/attempt-N.log.

    Raises:
        InputError: the command was refused (its exit status is 2).
        WorkError: the command failed, or Google Cloud refuses the first request.
        Preempted: the slice was lost more often than `limits.retries`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for attempt in range(1, limits.retries + 2):
            if _attempt(Shell(logs, attempt), job, limits, is_first=attempt == 1):
                return
    finally:
        signal.signal(signal.SIGTERM, previous)
    raise Preempted(
        f"{job.name} was lost {limits.retries + 1} times; run the same command again to continue, or raise --retries"
    )


class Shell:
    """Executes commands and keeps what they print.

    Attributes:
        attempt: the number of the slice, from 1.
        log: the file of its output.
    """

    def __init__(self, logs: Path, attempt: int) -> None:
        """Begins the log of an attempt."""
        self.attempt = attempt
        self.log = logs / f"attempt-{attempt}.log"
        self.log.unlink(missing_ok=True)
        self._commands = logs / "commands.log"

    def say(self, text: str) -> None:
        """Prints a line with the time and the number of the attempt, and logs it."""
        line = f"[{datetime.datetime.now():%H:%M:%S}] attempt {self.attempt}: {text}"
        print(line, flush=True)
        with self.log.open("a") as log:
            log.write(f"{line}\n")

    def __call__(self, command: list[str], is_quiet: bool = False) -> tuple[int, str, str]:
        """Executes a command and returns its exit status, its output, and its last line.

        An interrupt ends the command; by itself the command does not get the Ctrl-C of this terminal, so that a
        request to Google Cloud is not cut off in the middle.

        Args:
            command: its words.
            is_quiet: whether the output is only returned, with stderr left out of it, and not printed and logged.
        """
        with self._commands.open("a") as file:
            file.write(f"{shlex.join(command)}\n")
        errors = subprocess.PIPE if is_quiet else subprocess.STDOUT
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
            start_new_session=True,
        )
        try:
            if is_quiet:
                output, told = process.communicate()
            else:
                output = told = self._follow(process)
        except KeyboardInterrupt:  # the command must not outlive this process
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        return process.wait(), output, (told.strip().splitlines() or ["it printed nothing"])[-1]

    def _follow(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        lines = []
        with self.log.open("a") as log:
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
                lines.append(line)
        return "".join(lines)


def _attempt(shell: Shell, job: Job, limits: Limits, is_first: bool) -> bool:
    """Uses one slice, and returns whether the command is complete."""
    shell.say(f"asks for {job.slice.name} ({job.hosts} hosts){', spot' if job.spot else ''} in {job.zone}")
    try:
        created, _, told = shell(commands.create(job))
        ended = _LOST if created else _use(shell, job, limits)
    except (KeyboardInterrupt, WorkError):
        _leave(shell, job, limits)
        raise
    if created and is_first:
        # Nothing is deleted: the name may be that of another run.
        raise WorkError(f"{job.name} cannot be created: {told}")
    if ended is _LOST or ended == _PREEMPTED:
        shell.say("the command saved a checkpoint" if ended == _PREEMPTED else "the slice was lost")
        _delete(shell, job, limits)
        time.sleep(limits.poll_seconds)
        return False
    _leave(shell, job, limits)
    if ended == 2:
        raise InputError(f"the command was refused on {job.name}; see {shell.log}")
    if ended:
        raise WorkError(f"the command ended with exit status {ended} on {job.name}; see {shell.log}")
    shell.say("complete")
    return True


def _leave(shell: Shell, job: Job, limits: Limits) -> None:
    """Deletes the slice, or says how to do so where it is kept."""
    if limits.keep:
        shell.say(f"{job.name} stays and costs money; delete it with: {shlex.join(commands.delete(job))}")
    else:
        _delete(shell, job, limits)


def _use(shell: Shell, job: Job, limits: Limits) -> int | None:
    """Waits for the slice, prepares it and runs the command; returns its exit status, None if the slice was lost."""
    state = _wait(shell, job, limits)
    if state != _ACTIVE:
        return _LOST
    archived = shell.log.parent / "checkout.tar.gz"
    status, _, told = shell(commands.archive(archived))
    if status:
        raise WorkError(f"the checkout cannot be packed: {told}")
    # Right after the start, ssh may not answer yet.
    for _ in range(_TRIES):
        if not shell(commands.copy(job, archived))[0]:
            break
        if _state(shell, job, limits) != _ACTIVE:
            return _LOST
        time.sleep(limits.poll_seconds)
    else:
        return _LOST
    shell.say("prepares the hosts")
    status, _, told = shell(commands.setup(job))
    if status:
        if status == 255 or _state(shell, job, limits) != _ACTIVE:  # 255: ssh itself failed
            return _LOST
        raise WorkError(f"the hosts cannot be prepared: {told}; see {shell.log}")
    shell.say("runs the command")
    _, output, _ = shell(commands.run(job))
    statuses = [int(found) for found in _STATUS.findall(output)]
    return outcome(statuses, job.hosts, _state(shell, job, limits))


def _wait(shell: Shell, job: Job, limits: Limits) -> str:
    """Waits while the request is in the queue; returns the state that follows."""
    began = said = time.monotonic()
    before = None
    while True:
        state = _state(shell, job, limits)
        now = time.monotonic()
        if state != before or now - said > _SAY_EVERY_SECONDS:
            shell.say(f"{state or 'in the queue'}, waited {datetime.timedelta(seconds=round(now - began))}")
            before, said = state, now
        if state not in _WAITING:
            return state
        time.sleep(limits.poll_seconds)


def _state(shell: Shell, job: Job, limits: Limits) -> str:
    """Returns the state of the request, or `_GONE`.

    Raises:
        WorkError: gcloud cannot tell it, several times in a row.
    """
    for _ in range(_TRIES):
        status, output, told = shell(commands.describe(job), is_quiet=True)
        if not status:
            return output.strip()
        if "NOT_FOUND" in told or "not found" in told.lower():
            return _GONE
        time.sleep(limits.poll_seconds)
    raise WorkError(f"the state of {job.name} cannot be read: {told}")


def _delete(shell: Shell, job: Job, limits: Limits) -> None:
    """Deletes the slice; says so, or names the command that does."""
    command = commands.delete(job)
    shell.say(f"deletes {job.name}")
    try:
        for _ in range(_TRIES):
            status, _, told = shell(command)
            if not status or "NOT_FOUND" in told or "not found" in told.lower():
                return
            time.sleep(limits.poll_seconds)
    except KeyboardInterrupt:
        shell.say(f"interrupted; {job.name} may still be there; delete it with: {shlex.join(command)}")
        raise
    raise WorkError(f"{job.name} cannot be deleted ({told}) and costs money; delete it with: {shlex.join(command)}")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
