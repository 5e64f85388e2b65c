"""The step from metrics on the devices to the records of a run."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msm_jax.data.loader import Batch
from msm_jax.training import alerts, metrics, origin, step
from msm_jax.training.config import PhaseConfig
from msm_jax.training.run_files import PhaseResult

Report = Callable[[dict[str, Any]], None]


class Recorder:
    """Reads the metrics of each step after it has ended, checks them, and records them.

    `end` is the last step that is trained, and `workdir` where the records go. Only the first host writes them; every
    host checks them.
    """

    def __init__(
        self,
        config: PhaseConfig,
        end: int,
        workdir: Path,
        start: origin.Origin,
        mesh: Mesh,
        began: float,
        report: Report | None,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._end, self._start, self._say = config, end, start, say
        self._devices, self._began, self._local = mesh.size, began, mesh.local_devices
        peak = metrics.peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = peak and peak * mesh.size
        before = start.info.get("totals", {}) if start.kind == "resume" else {}
        self._totals = {"tokens": 0, "loss_tokens": 0, "flops": 0.0, "wall_seconds": 0.0, "step_seconds": 0.0}
        self._totals |= before
        self._wall_before = self._totals["wall_seconds"]
        self._pending: tuple[int, step.Metrics, Any, float] | None = None
        self._sums_of_all = jax.jit(metrics.visible_sums, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._open = contextlib.ExitStack()
        self._file: metrics.MetricsFile | None = None
        self._board: metrics.TensorBoard | None = None
        self._line: metrics.ProgressLine | None = None
        if jax.process_index() == 0:
            self._file = metrics.MetricsFile(workdir / "metrics.jsonl", start.start_step, alerts.WINDOW + 1)
            self._open.callback(self._file.close)
            self._board = metrics.TensorBoard(workdir, start.start_step)
            self._open.callback(self._board.close)
            self._line = metrics.ProgressLine(config.name, start.start_step, end, report)
            self._open.callback(self._line.close)
        # What was alerted before an interruption is known from the records. The times of another machine say nothing.
        before = list(self._file.before) if self._file is not None else []
        spikes, slow = (before[-1].get(name, 0) if before else 0 for name in ("loss_spikes", "slow_steps"))
        self._losses = alerts.Alarm(alerts.LOSS, [record["loss"] for record in before], spikes)
        self._times = alerts.Alarm(alerts.SECONDS, count=slow)
        self.restart_clock()

    @property
    def usual_seconds(self) -> float | None:
        """The median time of the last steps; None after too few."""
        return self._times.usual

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the next step's time."""
        self._clock = time.monotonic()

    def pend(
        self, finished: int, step_metrics: step.Metrics, batch: Batch, placed: Mapping[str, jax.Array], waited: float
    ) -> None:
        """Stores the metrics of a step that has been dispatched, to be read later.

        Args:
            finished: the step.
            step_metrics: on the devices.
            batch: the rows that this host has read.
            placed: the rows of all hosts, on the devices.
            waited: the seconds until there was a batch.
        """
        if jax.process_count() == 1:
            sums = metrics.visible_sums(batch.positions, batch.segment_ids)
        else:
            sums = self._sums_of_all(placed["positions"], placed["segment_ids"])
        self._pending = (finished, step_metrics, sums, waited)

    def read_pending(self) -> tuple[int, str] | None:
        """Waits for the step that was stored last and records it.

        Returns:
            None, or (step, name of the value) if its loss or gradient is not finite; such a step is not recorded.
        """
        if self._pending is None:
            return None
        finished, on_device, sums, waited = self._pending
        self._pending = None
        context = metrics.mean_context(*jax.device_get(sums))
        values = {name: value.item() for name, value in jax.device_get(on_device).items()}
        seconds = time.monotonic() - self._clock
        self.restart_clock()
        for name, what in (("loss", "the loss"), ("grad_norm", "the gradient norm")):
            if not math.isfinite(values[name]):
                return finished, what
        objective = self._config.objective
        per_token = metrics.flops_per_token(
            self._start.model, context, self._start.adapter, self._start.beside, objective.forwards
        )
        flops = per_token * values["tokens"]
        self._totals["tokens"] += values["tokens"]
        self._totals["loss_tokens"] += values["loss_tokens"]
        self._totals["flops"] += flops
        self._totals["step_seconds"] += seconds
        is_slow, is_spike = self._times.rings(seconds), self._losses.rings(values["loss"])
        if self._file is None or self._board is None or self._line is None:
            return None
        if is_slow:
            data = f", of which {waited:.3g} s waiting for data" if waited > seconds / 2 else ""
            self._say(f"step {finished} took {seconds:.3g} s{data}; usually {self._times.usual:.3g} s")
        if is_spike:
            self._say(f"the loss of step {finished} is {values['loss']:.4g}; usually {self._losses.usual:.4g}")
        record = {
            "step": finished,
            "loss": values["loss"],
            "tokens": values["tokens"],
            "slots": self._config.batch_rows * self._config.data.seq_len,
            **{name: values[name] for name in (*objective.counts, *objective.means)},
            "grad_norm": values["grad_norm"],
            "learning_rate": values["learning_rate"],
            "tokens_per_second": values["tokens"] / seconds,
            "flops_per_second": flops / seconds,
            "mfu": flops / seconds / self._peak if self._peak else None,
            "data_wait": min(1.0, waited / seconds),
            "seconds": seconds,
            **metrics.memory(self._local),
            "loss_spikes": self._losses.count,
            "slow_steps": self._times.count,
        }
        self._file.write(record)
        if finished % self._config.log_every == 0 or finished == self._end:
            self._board.write(record)
            self._line.show(record)
        return None

    def held_out(self, finished: int, found: Mapping[str, Mapping[str, float | None]]) -> None:
        """Records the held-out loss of each source, and the objective's means: {metric: {source: value}}."""
        if self._file is not None and self._board is not None:
            record = {"step": finished, **{f"holdout_{name}": values for name, values in found.items()}}
            self._file.write(record)
            self._board.write(record)
        self.restart_clock()

    def totals(self) -> dict[str, float]:
        """Returns sums over the whole phase, including the parts before an interruption."""
        self._totals["wall_seconds"] = self._wall_before + time.monotonic() - self._began
        return dict(self._totals)

    def result(self, workdir: Path) -> PhaseResult:
        """Returns the result of the phase."""
        totals = self.totals()
        return PhaseResult(
            checkpoint=workdir / "checkpoints" / str(self._config.steps),
            steps=self._config.steps - self._start.first_step,
            tokens=int(totals["tokens"]),
            flops=totals["flops"],
            wall_seconds=totals["wall_seconds"],
            device_seconds=totals["step_seconds"] * self._devices,
        )

    def flush(self) -> None:
        """Writes all records so far to the file."""
        if self._file is not None:
            self._file.flush()
