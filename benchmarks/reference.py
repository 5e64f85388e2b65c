"""Helpers for comparisons with transformers on torch: weights under its names, and worker processes that are timed.

The reference lives in an environment of its own (requirements-ref.txt), so weights and results are exchanged as
.npz files, and each side runs in a fresh process that does one repeat per line it reads.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from msm_jax.errors import InputError, WorkError
from msm_jax.models import families
from msm_jax.models.config import ModelConfig
from msm_jax.parallel import backend


def weights(params: dict[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the parameters under transformers' names, with matrices as [outputs, inputs]."""
    named: dict[str, np.ndarray] = {}
    for name, (weight, layer) in families.tensors(config).items():
        leaf: Any = params
        for key in weight.path:
            leaf = leaf[key]
        named[name] = weight.to_hf(np.asarray(leaf[layer] if weight.layers else leaf)).reshape(weight.hf_shape)
    return named


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file, as `numpy.savez` does."""
    np.savez(path, allow_pickle=False, **arrays)


def settings(config: ModelConfig) -> dict[str, Any]:
    """Returns the model's shape as the arguments of a transformers config, with its "family"."""
    found = families.to_config(config)
    del found["architectures"]
    return {"family": found.pop("model_type"), **found}


class Worker:
    """A process that reads one JSON request per line, carries it out, and writes one JSON answer.

    Whichever side it is, it has huge pages, as the workers of an experiment do.
    """

    def __init__(self, command: Sequence[str], threads: int) -> None:
        self._started = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**backend.HUGE_PAGES, **environment, "NPROC": str(threads), "JAX_PLATFORMS": "cpu"},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            WorkError: the process has ended; it has said why on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise WorkError(f"{self._process.args!r} ended with status {self._process.wait()}; its error is above")
        return json.loads(answer)

    def first(self) -> float:
        """Returns the seconds from the start of the process to the end of its first repeat."""
        self.ask(do="run")
        return time.perf_counter() - self._started

    def peak_mib(self) -> float:
        """Returns the peak memory of the process so far, in MiB; NaN if the kernel does not report it.

        Read from the kernel: what getrusage gives a child starts from its parent's own peak.
        """
        status = Path(f"/proc/{self._process.pid}/status")
        lines = status.read_text().splitlines() if status.is_file() else []
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def find_python(given: str | None) -> str:
    """Returns the reference interpreter: `given`, or the value of MSM_JAX_REF_PYTHON.

    Raises:
        InputError: neither is set, or there is no such file.
    """
    python = given or os.environ.get("MSM_JAX_REF_PYTHON", "")
    if not python:
        raise InputError("--ref_python is missing; `make bench` builds the reference environment and passes it on")
    if not Path(python).is_file():
        raise InputError(f"--ref_python={python}: no such file")
    return python


def product(m: int, k: int, n: int, times: int) -> float:
    """Returns the seconds that `times` products [m, k] × [k, n] take."""
    a, b = (jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32) for shape in ((m, k), (k, n)))
    multiply = jax.jit(jnp.matmul)
    multiply(a, b).block_until_ready()
    took = []
    for _ in range(30):
        start = time.perf_counter()
        multiply(a, b).block_until_ready()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * times
