"""Runs a command on a slice of Cloud TPUs, over as many slices as preemptions make it take, until it is complete.

    python launch/tpu_vm.py --name=NAME --zone=ZONE --accelerator=v5e:8x8 --spot --workdir=nfs://HOST/EXPORT/DIR \\
        -- python -m msm_jax.train --config=FILE

--dry_run checks everything and prints the commands. docs/launching.md has an example and what is lost when.

Exit status: 0 complete; 1 the command failed; 2 refused, here before anything was created or by the command; 75 the
slice was lost more often than --retries allows; 130 interrupted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Python puts only the directory of the file there

from launch import checks, commands, lifecycle, slices
from launch.commands import Job
from launch.lifecycle import Limits
from msm_jax import cli
from msm_jax.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
_COMPILER = "MSM_JAX_TPU_PYTHON"


def flag_values() -> flags.FlagValues:
    """Returns the flags of this command, apart from those of the commands whose configs it reads."""
    values = flags.FlagValues()
    for name, text in (
        ("name", "The name of the slice, which no other one of the project has."),
        ("zone", "The zone of Google Cloud, such as us-west4-a."),
        ("accelerator", "The slice, such as v5e:8x8, or v5litepod-64."),
        ("workdir", "nfs://HOST/EXPORT/DIRECTORY; on one host also gs://BUCKET/DIRECTORY, or with --keep a directory."),
    ):
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_string("project", "", "The project of Google Cloud; empty: gcloud's own setting.", flag_values=values)
    flags.DEFINE_string("runtime_version", "", "The software of the machines; empty: by the chip.", flag_values=values)
    flags.DEFINE_string("model", "", "The preset of a checkpoint that is not on this machine.", flag_values=values)
    flags.DEFINE_string("logs", "", "The directory of the logs; empty: runs/launch/NAME.", flag_values=values)
    flags.DEFINE_boolean("spot", False, "Takes a slice that may be preempted.", flag_values=values)
    flags.DEFINE_boolean("keep", False, "Leaves the slice when the command has ended.", flag_values=values)
    flags.DEFINE_boolean("dry_run", False, "Checks everything and prints the commands.", flag_values=values)
    flags.DEFINE_integer("retries", 50, "How many more slices are asked for.", 0, flag_values=values)
    flags.DEFINE_float("poll_seconds", 30.0, "The time between two looks at the state.", 0, flag_values=values)
    return values


def launch(argv: list[str]) -> None:
    """Does what the words of the command line say.

    Raises:
        InputError: something is wrong, and nothing was created; or the command was refused.
        WorkError, Preempted: see `lifecycle.run`.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    values = flag_values()
    cli.parse_flags(argv[:end], values)
    for name in ("name", "zone", "accelerator", "workdir"):
        if not values[name].value:
            raise InputError(f"--{name} is missing; give --{name}=...")
    found = slices.parse(values.accelerator)
    hosts = slices.hosts(found)
    command = checks.command(argv[end + 1 :], hosts)
    share, directory = checks.workdir(values.workdir, hosts, values.keep)
    job = Job(
        name=checks.name(values.name),
        zone=values.zone,
        project=values.project,
        slice=found,
        spot=values.spot,
        runtime_version=values.runtime_version or slices.runtime(found),
        share=share,
        directory=directory,
        command=command,
    )
    uncommitted = checks.checkout()
    checks.config(job, values.model)
    logs = Path(values.logs or f"runs/launch/{job.name}")
    if values.dry_run:
        if commands.config_flags(command):
            print(commands.show(commands.plan(job, "python", values.model)))
        for words in commands.sequence(job, logs / "checkout.tar.gz", values.keep):
            print(commands.show(words))
        return
    if shutil.which("gcloud") is None:
        raise InputError("gcloud is not on PATH; install the Google Cloud CLI and log in with: gcloud auth login")
    for warning in (uncommitted, _risk(job)):
        if warning:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    _plan(job, values.model)
    lifecycle.run(job, Limits(values.retries, values.poll_seconds, values.keep), logs)


def _risk(job: Job) -> str:
    if job.spot and not job.share and not job.is_in_bucket:
        return f"{job.directory} is lost when the machine is preempted, and the command then begins again"
    return ""


def _plan(job: Job, model: str) -> None:
    """Compiles the config for the slice where a compiler is named, and says so where none is.

    Raises:
        InputError: it does not fit.
    """
    if not commands.config_flags(job.command):
        return
    if not os.environ.get(_COMPILER):
        told = f"note: memory is not checked, since {_COMPILER} names no compiler (make tpu)"
        print(told, file=sys.stderr, flush=True)
        return
    words = commands.plan(job, sys.executable, model)
    if subprocess.run(words, check=False).returncode:
        raise InputError(f"the plan for {job.slice.name} fails, as it says above; nothing was created")


def main(argv: list[str]) -> int:
    """Runs `launch` and returns its exit status."""
    if {"--help", "-h", "--helpfull", "--helpshort"} & set(argv[: argv.index("--") if "--" in argv else None]):
        print(f"{__doc__}\n{flag_values().get_help()}")
        return 0
    return cli.status(lambda: launch(argv), argv[:1])


if __name__ == "__main__":
    os.chdir(ROOT)  # configs and logs are named from here, as on the machines
    sys.exit(main(sys.argv))
