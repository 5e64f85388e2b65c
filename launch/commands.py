"""The commands that `launch.tpu_vm` executes. Each function returns the words of one; nothing runs here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import slices
from msm_jax.planning.topology import Topology

# Where a share is mounted on every machine.
MOUNT = "/shared"
# A connection to a machine that is gone ends after two minutes; ssh would wait for it forever.
_ALIVE = ("--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=4")


@dataclass(frozen=True)
class Job:
    """One command on one slice.

    Attributes:
        name: of the queued resource and of its node.
        zone: of Google Cloud.
        project: of Google Cloud; empty: gcloud's own setting.
        slice: the TPUs.
        spot: whether the slice may be preempted.
        runtime_version: the software of the machines.
        share: HOST:/EXPORT of NFS that every machine mounts at `MOUNT`, or empty.
        directory: the workdir on the machines, absolute, relative to the checkout, or in a bucket.
        command: the words of the command, without --workdir.
    """

    name: str
    zone: str
    project: str
    slice: Topology
    spot: bool
    runtime_version: str
    share: str
    directory: str
    command: tuple[str, ...]

    @property
    def is_in_bucket(self) -> bool:
        """Whether the workdir is in a bucket."""
        return self.directory.startswith("gs://")

    @property
    def hosts(self) -> int:
        """The number of machines of the slice."""
        return slices.hosts(self.slice)


def plan(job: Job, python: str, model: str) -> list[str]:
    """Compiles the config for the slice on this machine, and fails where it does not fit.

    Args:
        job: its command has a config.
        python: the interpreter.
        model: the preset of a checkpoint that is not on this machine, or empty.
    """
    flags = [*config_flags(job.command), f"--topology={job.slice.name}", *([f"--model={model}"] if model else [])]
    return [python, "-m", "msm_jax.plan", *flags]


def config_flags(command: Sequence[str]) -> list[str]:
    """Returns the words of a command that name its config and override its fields."""
    return [word for word in command if word.lstrip("-").startswith(("config=", "config."))]


def create(job: Job) -> list[str]:
    """Asks for the slice; returns as soon as the request is in the queue."""
    return [
        "gcloud", "compute", "tpus", "queued-resources", "create", job.name, f"--node-id={job.name}", *_where(job),
        *slices.flags(job.slice), f"--runtime-version={job.runtime_version}", *(["--spot"] if job.spot else []),
    ]


def describe(job: Job) -> list[str]:
    """Prints the state of the request, such as WAITING_FOR_RESOURCES or ACTIVE."""
    words = ["gcloud", "compute", "tpus", "queued-resources", "describe", job.name, *_where(job)]
    return [*words, "--format=value(state.state)"]


def delete(job: Job) -> list[str]:
    """Deletes the request and its machines, and waits until they are gone."""
    return ["gcloud", "compute", "tpus", "queued-resources", "delete", job.name, *_where(job), "--force", "--quiet"]


def archive(to: Path) -> list[str]:
    """Writes the committed files of the checkout to one archive, below `msm_jax/`."""
    return ["git", "archive", "--format=tar.gz", "--prefix=msm_jax/", f"--output={to}", "HEAD"]


def copy(job: Job, archived: Path) -> list[str]:
    """Copies the archive to every machine."""
    words = ["gcloud", "compute", "tpus", "tpu-vm", "scp", str(archived), f"{job.name}:msm_jax.tar.gz"]
    return [*words, *_where(job), "--worker=all", "--quiet"]


def setup(job: Job) -> list[str]:
    """Unpacks the checkout on every machine, mounts the share and installs the packages."""
    words = ["bash", "msm_jax/launch/setup_host.sh"]
    if job.share:
        words += [job.share, job.directory]
    elif job.is_in_bucket:
        words.append(job.directory)
    return _ssh(job, f"tar -xzf msm_jax.tar.gz && {shlex.join(words)}")


def run(job: Job) -> list[str]:
    """Runs the command on every machine; each prints its exit status."""
    words = [str(job.hosts), *job.command, f"--workdir={job.directory}"]
    return _ssh(job, f"bash msm_jax/launch/run_on_host.sh {shlex.join(words)}")


def sequence(job: Job, archived: Path, keep: bool) -> list[list[str]]:
    """Returns the commands of one attempt in their order; `describe` is repeated until the slice is there."""
    words = [create(job), describe(job), archive(archived), copy(job, archived), setup(job), run(job)]
    return words if keep else [*words, delete(job)]


def show(command: Sequence[str]) -> str:
    """Returns a command as a shell takes it, broken into lines of about 110 characters between its words."""
    lines = [""]
    for word in map(shlex.quote, command):
        if lines[-1] and len(lines[-1]) + len(word) > 110:
            lines.append(f"    {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip() if len(lines) == 1 else f"{lines[-1]} {word}"
    return " \\\n".join(lines)


def _where(job: Job) -> list[str]:
    return [f"--zone={job.zone}", *([f"--project={job.project}"] if job.project else [])]


def _ssh(job: Job, script: str) -> list[str]:
    words = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", job.name, *_where(job), "--worker=all", "--quiet"]
    return [*words, *_ALIVE, f"--command={script}"]
