"""The records of each step of a run: `metrics.jsonl`, TensorBoard, and a line of progress.

Conventions. `tokens` counts inputs that are not padding, `slots` includes padding, `loss_tokens` counts targets with
loss. Model FLOPs are three times those of the matrix products in the forward pass
(`transformer.forward_flops_per_token`), for tokens that are not padding, with attention over what each token may see in
its own segment; recomputation is not counted. A frozen matrix has no gradient of its own, so the products with an
adapter's base count twice. `mfu` divides model FLOPs by the peak of the devices in bfloat16, whatever the compute
dtype, and is null where the peak is not known (CPU). `seconds` of a step is the time since the end of the step before
it, without held-out loss, saving and traces. `host_bytes` is the resident memory of the first process; `device_bytes`
and `device_peak_bytes` are those of its fullest device, now and since the process began, and null where the backend
does not tell (CPU). `loss_spikes` and `slow_steps` count the alerts so far (`training.alerts`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from msm_jax.foundation import storage
from msm_jax.models import lora, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.lora import LoraConfig

log = logging.getLogger(__name__)
ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

# Dense bfloat16 FLOP/s per JAX device, from the vendors' data sheets; keys are prefixes of
# `Device.device_kind`, the longest wins.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
}

_FLUSH_SECONDS = 2.0
_LINE_SECONDS = 10.0


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak dense bfloat16 FLOP/s of one device, None where it is not known."""
    matches = [kind for kind in PEAK_FLOPS if device_kind.startswith(kind)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


class MetricsFile:
    """Appends records to `metrics.jsonl`, several at a time, after dropping those beyond the restored step.

    Attributes:
        before: of the records that it kept, the last of steps, at most `remembered`.

    Raises:
        WorkError: (every method) the file cannot be written.
    """

    def __init__(self, path: Path, restored_step: int, remembered: int = 0) -> None:
        self._path = path
        self.before: deque[dict[str, Any]] = deque(maxlen=remembered)
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        with storage.writing(path):
            if path.exists():
                os.truncate(path, _size_until(path, restored_step, self.before))
            self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record; it reaches the file within seconds."""
        self._lines.append(json.dumps(record))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes pending records."""
        self._flushed = time.monotonic()
        text = "".join(f"{line}\n" for line in self._lines)
        self._lines.clear()
        with storage.writing(self._path):
            self._file.write(text)
            self._file.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with contextlib.closing(self._file):
            self.flush()


def _size_until(path: Path, step: int, found: deque[dict[str, Any]]) -> int:
    """Returns the bytes of the leading records up to `step`; a line that a kill cut short ends them too.

    Those of steps, which have a loss, are added to `found`.
    """
    size = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
                keep = line.endswith(b"\n") and record["step"] <= step
            except (ValueError, KeyError, TypeError):
                keep = False
            if not keep:
                break
            size += len(line)
            if "loss" in record:
                found.append(record)
    return size


class TensorBoard:
    """Writes the same numbers for TensorBoard, under RUN/tensorboard.

    The caller's thread writes one event per record: `SummaryWriter` has a thread that dies when the disk is full, and
    then the caller waits forever.

    Raises:
        WorkError: (every method) the file cannot be written.
    """

    def __init__(self, run_dir: Path, restored_step: int) -> None:
        self._directory = run_dir / "tensorboard"
        with storage.writing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(self._directory / "events"), f".{restored_step}")
            if restored_step:
                # Makes TensorBoard drop what an earlier part of the run wrote beyond this step.
                start = SessionLog(status=SessionLog.START)
                self._events.write_event(
                    Event(wall_time=time.time(), step=restored_step + 1, session_log=start)
                )
        self._flushed = time.monotonic()

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes the numbers of a record of `metrics.jsonl`."""
        values = []
        for name, value in record.items():
            if isinstance(value, Mapping):
                values += [(f"{name}/{key}", number) for key, number in value.items()]
            elif name != "step":
                values.append((f"train/{name}", value))
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values if value is not None]
        )
        with storage.writing(self._directory):
            self._events.write_event(Event(wall_time=time.time(), step=record["step"], summary=summary))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._flushed = time.monotonic()
                self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        with storage.writing(self._directory):
            self._events.close()


class ProgressLine:
    """Shows the progress of a phase: to `report` if given, else as a live line on a terminal, else as log lines."""

    def __init__(
        self, name: str, start: int, steps: int, report: Callable[[dict[str, Any]], None] | None
    ) -> None:
        self._name, self._steps, self._report = name, steps, report
        self._start, self._began, self._shown = start, time.monotonic(), 0.0
        self._live: Progress | None = None
        if report is None and sys.stderr.isatty():
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._live.add_task(name, total=steps, completed=start, rate="")
            self._live.start()

    def show(self, record: Mapping[str, Any]) -> None:
        """Shows a record of `metrics.jsonl`."""
        step, loss, rate = record["step"], record["loss"], record["tokens_per_second"]
        elapsed = time.monotonic() - self._began
        left = elapsed / max(1, step - self._start) * (self._steps - step)
        if self._report is not None:
            self._report(
                {
                    "step": step,
                    "steps": self._steps,
                    "loss": loss,
                    "tokens_per_second": rate,
                    "eta_seconds": left,
                }
            )
        elif self._live is not None:
            self._live.update(self._task, completed=step, rate=f"loss {loss:.3f}  {rate:,.0f} tokens/s")
        elif elapsed - self._shown > _LINE_SECONDS or step == self._steps:
            self._shown = elapsed
            log.info(
                "%s step %d of %d, loss %.3f, %s tokens/s, %.0f s left",
                self._name,
                step,
                self._steps,
                loss,
                f"{rate:,.0f}",
                left,
            )

    def close(self) -> None:
        """Removes the live line."""
        if self._live is not None:
            self._live.stop()


def memory(devices: Iterable[jax.Device]) -> dict[str, int | None]:
    """Returns `host_bytes`, `device_bytes` and `device_peak_bytes`, the latter two of the fullest of `devices`."""
    stats = [found for device in devices if (found := device.memory_stats())]
    names = ("bytes_in_use", "peak_bytes_in_use")
    used, peak = (max((each[name] for each in stats if name in each), default=None) for name in names)
    return {"host_bytes": _resident_bytes(), "device_bytes": used, "device_peak_bytes": peak}


def _resident_bytes() -> int | None:
    """Returns the resident memory of this process; None where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return None


def flops_per_token(
    model: ModelConfig,
    context: float,
    adapter: LoraConfig | None = None,
    below: Sequence[LoraConfig] = (),
    forwards: int = 0,
) -> float:
    """Returns the model FLOPs of training per token, over a mean visible context of `context` tokens.

    Args:
        model: the model.
        context: see `transformer.forward_flops_per_token`.
        adapter: the adapter that is trained; None where all weights are.
        below: frozen adapters that are applied beside the base.
        forwards: how often base and frozen adapters are run forward besides; see `training.objective`.
    """
    forward = transformer.forward_flops_per_token(model, context)
    if adapter is None:
        return 3 * forward
    frozen = transformer.forward_flops_per_token(model, 0)
    attention = forward - frozen
    frozen += sum(lora.forward_flops_per_token(config, model) for config in below)
    again = forwards * (frozen + attention)
    return again + 2 * frozen + 3 * (attention + lora.forward_flops_per_token(adapter, model))


def visible_sums(positions_BT: ArrayT, segment_ids_BT: ArrayT) -> tuple[ArrayT, ArrayT]:
    """Returns for each row the sum of the numbers of tokens that its tokens attend to, and how many tokens it has.

    A token attends to itself; padding is left out. Both are exact integers [rows], on the host and on devices.
    """
    real = segment_ids_BT != 0
    return ((positions_BT + 1) * real).sum(1), real.sum(1)


def mean_context(visible_B: np.ndarray, tokens_B: np.ndarray) -> float:
    """Returns the mean number of tokens that a token attends to, from the sums of rows."""
    return float(visible_B.sum(dtype=np.int64) / max(1, tokens_B.sum(dtype=np.int64)))
