"""Runs `planning.worker` and reads its log; keeps the figures of programs, by what they were made from.

The worker is a process of its own, under the Python that MSM_JAX_TPU_PYTHON names, or else under this one. The figures
of a program are kept under a hash of the job, the sources that build and measure it, and the versions of what compiles
it. Executables are not kept: one for a TPU that is not here cannot be loaded again.
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
from msm_jax.planning import programs
from msm_jax.planning.programs import Job

PYTHON = "MSM_JAX_TPU_PYTHON"

_PACKAGE = Path(__file__).parent.parent
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
    """Figures of programs, from the cache or by compiling; to be used as a context, which ends the worker.

    Attributes:
        versions: of jax, jaxlib, libtpu, flax and optax where programs are compiled; "" for one that is not there.
    """

    def __init__(self, cache: Path, tpu: bool, sources: Mapping[str, str]) -> None:
        """Finds the Python that compiles; the worker starts with the first program.

        Args:
            cache: where figures are kept. tpu: programs are for TPU topologies, not for the devices at hand.
            sources: the hashes by file of the sources that figures depend on: all that this module and
                `planning.worker` import.

        Raises:
            InputError: TPU programs need libtpu and it is not installed, or there is no such Python.
        """
        self._cache, self._tpu, self._sources = cache, tpu, dict(sources)
        self._python = os.environ.get(PYTHON, "") if tpu else ""
        self._python = self._python or sys.executable
        self._worker: subprocess.Popen[str] | None = None
        # The worker appends, wherever this side reads.
        self._log = tempfile.TemporaryFile("a+", errors="replace")  # noqa: SIM115 (closed in __exit__)
        self.versions = self._versions()
        if tpu and not self.versions["libtpu"]:
            raise InputError(
                "--topology needs libtpu, the compiler for TPUs, which is not installed here: install the extra "
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
            # It holds nothing worth saving, and it may be in the midst of minutes of work.
            self._worker.kill()
            self._worker.wait()
        self._log.close()

    def key(self, job: Job) -> str:
        """What decides the figures of a job, as a hash."""
        here = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
        if not self._tpu:
            here["devices"] = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
        content = {"job": programs.to_json(job), "sources": self._sources, "versions": self.versions, **here}
        return hashing.sha256(json.dumps(content, sort_keys=True).encode())

    def figures(self, job: Job, wait: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """What `worker.run` returns, with "log", what the compiler's log says of memory (see `_read`).

        Args:
            job: the program. wait: called once before it is compiled, which takes from seconds to minutes.

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
            raise WorkError(f"the compiler gave up: {result['exhausted'][:500]}")
        storage.write_json(path, result)
        return result

    def _ask(self, job: Job) -> tuple[dict[str, Any], str]:
        worker = self._worker or self._start()
        assert worker.stdin is not None and worker.stdout is not None
        begin = self._log.seek(0, os.SEEK_END)
        worker.stdin.write(json.dumps(programs.to_json(job)) + "\n")
        worker.stdin.flush()
        line = worker.stdout.readline()
        self._log.seek(begin)
        log = self._log.read()
        if not line:
            self._worker = None
            told = [text for text in log.splitlines() if text.strip()]
            raise WorkError(
                f"the compiler ended with status {worker.wait()}: {told[-1][:500] if told else 'it said nothing'}"
            )
        return json.loads(line), log

    def _start(self) -> subprocess.Popen[str]:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_PACKAGE.parent), environment.get("PYTHONPATH"))))
        if self._tpu:
            environment |= {
                "JAX_PLATFORMS": "cpu",
                # It would write executables that cannot be read again.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
                # What the compiler says of memory is logged as information.
                "TPU_MIN_LOG_LEVEL": "0",
                "TPU_STDERR_LOG_LEVEL": "0",
                "TPU_LOG_DIR": "disabled",
                # There is no TPU whose metadata could be asked for, and none to be kept from other processes.
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_ACCELERATOR_TYPE": "v5litepod-4",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            }
        self._worker = subprocess.Popen(
            [self._python, "-m", "msm_jax.planning.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )
        return self._worker


def _read(log: str, exhausted: str) -> dict[str, float]:
    """Bytes per device that TPU's compiler reports of its last program: "program", "arguments" and "cap".

    Where memory did not suffice: "needed" in all, and "cap". Empty for other compilers.
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
