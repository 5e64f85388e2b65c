"""What is refused before anything is created: from flags to a `commands.Job`."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from launch import commands
from launch.commands import Job
from msm_jax import cli
from msm_jax.errors import InputError
from msm_jax.foundation import settings
from msm_jax.planning import phases

# The commands that run on several hosts as one.
_ON_HOSTS = ("msm_jax.train", "msm_jax.experiment")


def workdir(given: str, hosts: int, keep: bool) -> tuple[str, str]:
    """Returns the share to mount, HOST:/EXPORT or empty, and the workdir on the machines.

    Raises:
        InputError: the machines would not share it, it would be deleted with them, or it is at a URL of another kind.
    """
    if given.startswith("nfs://"):
        host, _, rest = given.removeprefix("nfs://").partition("/")
        export, _, directory = rest.partition("/")
        parts = PurePosixPath(directory).parts
        if not host or not export or not parts or ".." in parts or parts[0] == "/":
            raise InputError(f"--workdir={given}: write nfs://HOST/EXPORT/DIRECTORY")
        return f"{host}:/{export}", f"{commands.MOUNT}/{'/'.join(parts)}"
    if given.startswith("gs://") and hosts == 1:
        return "", given
    if "://" in given:
        raise InputError(
            f"--workdir={given}: machines work at gs://BUCKET/DIRECTORY on a slice with one host, and at "
            f"nfs://HOST/EXPORT/DIRECTORY on any, such as a share of Filestore; this slice has {hosts}"
        )
    if hosts > 1:
        raise InputError(
            f"--workdir={given}: {hosts} hosts would each have a directory of their own; give a share of NFS, such as "
            "Filestore, as nfs://HOST/EXPORT/DIRECTORY"
        )
    if not keep:
        raise InputError(
            f"--workdir={given} is deleted with its machine at the end; add --keep, or give nfs://HOST/EXPORT/DIRECTORY"
        )
    return "", given


def command(words: Sequence[str], hosts: int) -> tuple[str, ...]:
    """Returns the command if it can run on so many hosts.

    Raises:
        InputError: there is none, it names a workdir or a config in another way, or it runs on one host only.
    """
    if not words:
        raise InputError("the command is missing; write it after --, as in: -- python -m msm_jax.train --config=FILE")
    for word in words:
        if re.fullmatch(r"--?workdir(=.*)?", word):
            raise InputError(f"{word} after --: give the workdir before --, where the machines are prepared for it")
        if re.fullmatch(r"--?config", word):
            raise InputError(f"{word} after --: write {word}=FILE")
    module = words[2] if len(words) > 2 and words[1] == "-m" else words[0]
    if hosts > 1 and module not in _ON_HOSTS:
        raise InputError(
            f"{module} runs on one host, and the slice has {hosts}; only {' and '.join(_ON_HOSTS)} run on "
            "several. Choose a slice with one host, such as v5e:2x4"
        )
    return tuple(words)


def name(given: str) -> str:
    """Returns a name that Google Cloud accepts for a queued resource.

    Raises:
        InputError: it has other characters.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", given):
        raise InputError(f"--name={given}: use lower-case letters, digits and dashes, and begin with a letter")
    return given


def config(job: Job, model: str) -> None:
    """Checks the config of the command, if it has one: its fields, and whether its meshes use every chip of the slice.

    Args:
        job: the job.
        model: the preset of a checkpoint that is not on this machine, or empty.

    Raises:
        InputError: as `planning.phases.check`, or the config is not among the committed files.
    """
    flags = commands.config_flags(job.command)
    if not flags:
        return
    # Imported here, since it takes seconds.
    from msm_jax.experiments.planned import phases_of

    given = dict(flag.lstrip("-").split("=", 1) for flag in flags if "=" in flag)
    found = cli.load_config(given)
    file = given["config"].split(":", 1)[0]
    if subprocess.run(["git", "cat-file", "-e", f"HEAD:./{file}"], capture_output=True, check=False).returncode:
        raise InputError(f"{file} is not committed; the machines get the files of the last commit, so commit it")
    fields = settings.plain(found)
    scoring = math.prod(fields.get("scoring", {}).get("mesh", {}).values())
    if job.hosts > 1 and scoring * job.hosts > job.slice.chips:
        raise InputError(
            f"scoring.mesh has {scoring} devices, and a host of {job.slice.name} has {job.slice.chips // job.hosts}; "
            "evals run on one host each, so give them a smaller mesh, such as --config.scoring.mesh.tensor=4"
        )
    if "phases" in fields or "optimizer" in fields:
        for phase in phases_of(fields, model)[1]:
            phases.check(phase.config, phase.program, job.slice.chips, job.slice.name)


def checkout() -> str:
    """Returns a line on changes that are not committed, which the machines do not get; empty where there are none.

    Raises:
        InputError: this is no checkout of git.
    """
    root = Path.cwd()
    told = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=False)
    if told.returncode:
        raise InputError(f"{root} is no checkout of git; the machines get the files of a commit")
    return "uncommitted changes stay here; the machines get the last commit" if told.stdout else ""
