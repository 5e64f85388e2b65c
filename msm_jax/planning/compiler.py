"""Runs `planning.worker` and reads its log; caches the figures of programs.

The worker is a child process, under the Python that MSM_JAX_TPU_PYTHON names, otherwise under this one. The figures of
a program are cached under a hash of the job, the sources that build and measure it, and the versions of the libraries
that compile it. Executables are not cached: one for a TPU that this machine does not have cannot be loaded again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, storage
from msm_jax.foundation.child_process import ChildProcess
from msm_jax.planning import programs
from msm_jax.planning.programs import Job

PYTHON = "MSM_JAX_TPU_PYTHON"

_UNITS = {"B": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SIZE = r"([\d.]+)([BKMGT])"
_VERSIONS = """
import importlib.metadata, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in ("jax", "jaxlib", "libtpu", "flax", "optax")}))
"""


class Compiler:
    """Figures of programs, from the cache or by compiling. It is a context manager, which ends the worker.

    Attributes:
        versions: the versions of jax, jaxlib, libtpu, flax and optax in the worker's Python; "" for a missing one.
    """

    def __init__(self, cache: Path, tpu: bool, sources: Mapping[str, str]) -> None:
        """Finds the Python that compiles; the worker starts with the first program.

        Args:
            cache: the directory of the figures.
            tpu: whether programs are for TPU topologies rather than for the devices of this machine.
            sources: SHA-256 by file of the sources that figures depend on: all that this module and
                `planning.worker` import.

        Raises:
            InputError: TPU programs need libtpu and it is not installed, or the Python cannot be run.
        """
        self._cache, self._tpu, self._sources = cache, tpu, dict(sources)
        self._python = os.environ.get(PYTHON, "") if tpu else ""
        self._python = self._python or sys.executable
        self._worker: ChildProcess | None = None
        # Opened for appending, so that the worker writes at the end wherever this process reads.
        self._log = tempfile.TemporaryFile("a+", errors="replace")  # noqa: SIM115 (closed in __exit__)
        self.versions = self._versions()
        if tpu and not self.versions["libtpu"]:
            raise InputError(
                "--topology needs libtpu, the compiler for TPUs, which is not installed: install the extra "
                f"\"tpu\" (pip install 'msm_jax[tpu]'), or name the Python of an environment that has it in {PYTHON}"
            )

    def _versions(self) -> dict[str, str]:
        try:
            found = subprocess.run([self._python, "-c", _VERSIONS], capture_output=True, text=True, check=False)
        except OSError as error:
            raise InputError(f"{PYTHON}={self._python} does not run ({error.strerror}); correct it") from error
        if found.returncode:
            told = found.stderr.strip().splitlines() or [f"it ends with status {found.returncode}"]
            raise InputError(f"{PYTHON}={self._python} does not run ({told[-1]}); correct it")
        versions: dict[str, str] = json.loads(found.stdout)
        missing = [name for name in ("jax", "flax", "optax") if not versions[name]]
        if missing:
            raise InputError(
                f"{self._python} has no {' and no '.join(missing)}; install there what requirements-tpu.txt lists"
            )
        return versions

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            # It holds nothing worth saving, and may be busy for minutes.
            self._worker.kill()
        self._log.close()

    def key(self, job: Job) -> str:
        """Returns the hash of everything that decides the figures of a job, 64 hex digits."""
        here = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
        if not self._tpu:
            here["devices"] = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        content = {"job": programs.to_json(job), "sources": self._sources, "versions": self.versions, **here}
        return hashing.digest(content)

    def figures(self, job: Job, wait: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Returns what `worker.run` returns, and under "log" what the compiler's log says about memory (see `_read`).

        Args:
            job: the program.
            wait: called once before the program is compiled, which takes from seconds to minutes.

        Raises:
            InputError: the program cannot be built on that mesh.
            WorkError: the compiler failed for another reason than memory.
        """
        path = self._cache / f"{self.key(job)}.json"
        if path.is_file():
            return storage.read_json(path)
        wait()
        result, log = self._ask(job)
        if "refused" in result:
            raise InputError(result["refused"])
        result["log"] = _read(log, result.get("exhausted", ""))
        if "exhausted" in result and not result["log"]:
            raise WorkError(f"the compiler failed: {result['exhausted'][:500]}")
        storage.write_json(path, result)
        return result

    def _ask(self, job: Job) -> tuple[dict[str, Any], str]:
        """Sends a job to the worker; returns its answer, and what was logged meanwhile."""
        self._worker = self._worker or self._start()
        begin = self._log.seek(0, os.SEEK_END)
        try:
            self._worker.send(programs.to_json(job))
            return self._worker.receive(), self._logged(begin)
        except (BrokenPipeError, EOFError):
            status, self._worker = self._worker.kill(), None
        told = [text for text in self._logged(begin).splitlines() if text.strip()]
        raise WorkError(f"the compiler ended with status {status}: {told[-1][:500] if told else 'it said nothing'}")

    def _logged(self, begin: int) -> str:
        self._log.seek(begin)
        return self._log.read()

    def _start(self) -> ChildProcess:
        environment = dict(os.environ)
        paths = (str(hashing.PACKAGE_ROOT), environment.get("PYTHONPATH"))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if self._tpu:
            environment |= {
                "JAX_PLATFORMS": "cpu",
                # The cache would hold executables that cannot be loaded again.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                # The compiler logs its use of memory at the level of information.
                "TPU_MIN_LOG_LEVEL": "0",
                "TPU_STDERR_LOG_LEVEL": "0",
                "TPU_LOG_DIR": "disabled",
                # There is no TPU here: no metadata to ask for, and no device that two processes must not share.
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_ACCELERATOR_TYPE": "v5litepod-4",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            }
        return ChildProcess([self._python, "-m", "msm_jax.planning.worker"], self._log, environment)


def _read(log: str, exhausted: str) -> dict[str, float]:
    """Returns the bytes per device that TPU's compiler reports for its last program: "program", "arguments" and "cap".

    If memory did not suffice, it returns "needed", the total, and "cap"; for other compilers nothing.
    """
    if exhausted:
        used = re.search(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)", exhausted)
        used = used or re.search(rf"Used {_SIZE} of {_SIZE} hbm", exhausted)
        return {"needed": _bytes(*used.groups()[:2]), "cap": _bytes(*used.groups()[2:])} if used else {}
    usage = re.findall(rf"program HBM usage: {_SIZE} / {_SIZE}", log)
    if not usage:
        return {}
    found = {"program": _bytes(*usage[-1][:2]), "cap": _bytes(*usage[-1][2:])}
    total = log[log.rindex("Total hbm usage") :]
    arguments = re.search(rf"arguments +{_SIZE}", total)
    found["arguments"] = _bytes(*arguments.groups()) if arguments else 0.0
    return found


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]
