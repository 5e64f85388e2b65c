"""The train loop: one for every phase, read from top to bottom.

The host runs ahead of the devices: the metrics of a step are read while the next one runs. They are read at once only
if the state is used for something else (held-out loss, a checkpoint), so that no state is saved that follows a loss or
gradient that is not finite.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from msm_jax.checkpoints import manifest, retention, store
from msm_jax.data import epochs
from msm_jax.data.loader import Batch, Loader
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import hashing, mirror
from msm_jax.parallel import distributed
from msm_jax.parallel.mesh import make_mesh
from msm_jax.training import goodput, origin, placement, run_files, step
from msm_jax.training import program as program_lib
from msm_jax.training import reference as reference_lib
from msm_jax.training.config import PhaseConfig
from msm_jax.training.objective import Objective
from msm_jax.training.program import TrainProgram
from msm_jax.training.recorder import Recorder, Report
from msm_jax.training.reference import Reference
from msm_jax.training.run_files import PhaseResult
from msm_jax.training.state import Frozen, TrainState
from msm_jax.training.stopping import StopRequest
from msm_jax.training.tracing import Tracer
from msm_jax.training.watch import Watch

log = logging.getLogger(__name__)


def train(config: PhaseConfig, workdir: Path, report: Report | None = None) -> PhaseResult:
    """Runs a phase to its end in `workdir`, from the newest checkpoint there if there is one.

    Writes config.json, manifest.json, metrics.jsonl, goodput.jsonl, tensorboard/, checkpoints/ and, when the phase is
    done, result.json. A phase that is done returns its result at once; if it lacks its last checkpoint or that of one
    of `keep_steps`, it is trained to that step again first. The result does not depend on where the phase was
    interrupted. A newest checkpoint that is damaged is set aside, and the one before it is used.

    Args:
        config: the phase.
        workdir: the directory of the run, on storage that all hosts share.
        report: receives progress (step, steps, loss, tokens_per_second, eta_seconds) in place of the terminal, and
            what is unusual ({"notice": line}) beside the log, from any thread.

    Raises:
        InputError: config, data, tokenizer or checkpoint are wrong or do not fit each other, or another process has
            the workdir.
        WorkError: loss or gradient not finite, a full disk, not enough device memory.
        Preempted: SIGTERM or Ctrl-C; a checkpoint was saved.
    """
    workdir = Path(workdir)
    with distributed.held(workdir):
        done = None
        if store.latest(workdir) is not None:
            run_files.check_same_run(config, workdir)
            if jax.process_index() == 0:
                run_files.record_kept_steps(config, workdir)
            _set_aside_damaged(config, workdir, report)
            done = run_files.read_result(workdir)
        if done is None:
            done = _run(config, workdir, report)
        wanted = sorted({*config.keep_steps, config.steps})
        lacking = [step for step in wanted if store.at_step(workdir, step) is None]
        if lacking:
            _set_aside_damaged(config, workdir, report, min(lacking))
            _run(config, workdir, report, lacking)
        return done


def _run(config: PhaseConfig, workdir: Path, report: Report | None, again: Sequence[int] = ()) -> PhaseResult:
    """Trains a phase to its end; or a phase that is done `again`, up to the last of these steps.

    Training again adds the checkpoints of these steps and leaves everything else of the run as it is.
    """
    began = time.monotonic()
    ledger = goodput.Ledger(began)
    say = functools.partial(_say, config, report)
    mesh = make_mesh(config.mesh)
    end = max(again, default=config.steps)

    # What the phase starts from: its own newest checkpoint, another's state or parameters, or nothing.
    start = origin.find(config, workdir, min(again, default=None))
    log.info("%s: %s%s", config.name, origin.describe(start), f", again to step {end}" if again else "")
    for notice in start.notices:
        log.warning("%s: %s", config.name, notice)
    if jax.process_index() == 0:
        for path in start.needed:
            retention.refer(path, workdir)

    # Data: every batch is a function of its step.
    loader = Loader(
        config.data, start.tokenizer, start.template, config.batch_rows, config.seed, workdir / "cache"
    )
    newest = store.latest(workdir)
    if newest is not None and store.read_info(newest)["data_fingerprint"] != loader.fingerprint:
        raise InputError(f"data changed since the checkpoint {newest}; put it back, or use another workdir")
    log.info("%s: %d steps read %s", config.name, config.steps, epochs.summary(loader, config.steps))
    for line in epochs.departures(loader, config.data, config.steps):
        log.warning("%s: %s", config.name, line)
    host, num_hosts = placement.share_of_rows(mesh, config.batch_rows)
    holdout = {
        name: loader.holdout_batches(name, config.eval_batches)
        for name, source in config.data.sources.items()
        if config.eval_every and source.holdout > 0 and not again
    }

    with contextlib.ExitStack() as stack:
        stack.enter_context(_out_of_memory(config))
        stack.enter_context(jax.set_mesh(mesh))

        # Compile, then the state, sharded over the mesh. Held-out loss compiles when it is first asked for.
        program = program_lib.of_phase(config, start.model, start.adapter, start.beside)
        ledger.spent("startup")
        adamw, train_step, eval_step = _programs(program, mesh)
        ledger.spent("compile")
        reference = None
        if program.objective.needs_reference:
            reference = reference_lib.prepare(config, start, loader, adamw, mesh, workdir)
        state, frozen, below = origin.restore(start, adamw, mesh, config.seed)
        start = origin.identified(start, frozen)
        log.info("%s: ready after %.1f s", config.name, time.monotonic() - began)

        # Records: config and manifest first, so that a run that is killed can be told from another. Those of a run that
        # is done stay as they are.
        kept = run_files.kept_steps(config, workdir)
        records, present = workdir, store.all_steps(workdir) if again else []
        if again:
            records = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        elif jax.process_index() == 0:
            run_files.begin(config, workdir, _manifest(config, start, loader, mesh), start)
        writer = store.Writer(workdir, config.keep_checkpoints, {*kept, *present})
        stack.callback(writer.wait)
        if jax.process_index() == 0:
            ledger.open(records / goodput.NAME, start.start_step)
            stack.callback(ledger.close)
        recorder = stack.enter_context(Recorder(config, end, records, start, mesh, began, report, say))
        watch = stack.enter_context(Watch(records, config.stall_seconds, say))
        tracer = stack.enter_context(Tracer(records / "tensorboard", config.trace_steps, watch.is_asked, say))
        batches = loader.iterate(start.start_step, host=host, num_hosts=num_hosts)
        stop = stack.enter_context(StopRequest())
        saved = time.monotonic()

        def spent(kind: str) -> None:
            """Tells ledger and watch that the loop has done something, in the turn of step `finished`."""
            ledger.spent(kind, finished)
            watch.alive(finished, recorder.usual_seconds)

        def check() -> None:
            """Waits for the current step; ends the run if its loss or gradient is not finite."""
            bad = recorder.read_pending()
            spent("step")
            if bad is not None:
                writer.wait()
                raise _not_finite(*bad, loader, workdir)

        def save() -> None:
            nonlocal saved
            check()
            if not bool(_all_finite(state.params)):
                writer.wait()
                raise _not_finite(finished, "a parameter", loader, workdir)
            recorder.flush()
            path = writer.path(finished)
            info = origin.checkpoint_info(start, config, path, finished, loader.fingerprint, recorder.totals())
            if reference is not None:
                info["reference"] = reference.key
            writer.save(finished, origin.checkpoint_tree(start, state, below), info, start.assets)
            saved = time.monotonic()
            recorder.restart_clock()
            spent("checkpoint")
            ledger.flush()

        def is_time() -> bool:
            """Returns whether a checkpoint is due by the clock of any host, which is asked at logged steps."""
            if not config.checkpoint_minutes or finished % config.log_every:
                return False
            return distributed.any_host(time.monotonic() - saved > 60 * config.checkpoint_minutes)

        def trace(begin_or_end: Callable[[], None]) -> None:
            check()
            begin_or_end()
            recorder.restart_clock()
            spent("trace")

        # Loop.
        ledger.spent("startup", start.start_step)
        for finished in range(start.start_step + 1, end + 1):
            if tracer.is_due(finished):
                trace(tracer.begin)
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
            spent("data_wait")
            more = {} if reference is None else reference.of_step(loader, finished - 1, host, num_hosts)
            with jax.profiler.StepTraceAnnotation("train", step_num=finished):
                placed = placement.place(batch, mesh, more)
                state, step_metrics = train_step(state, placed, frozen)
            check()
            recorder.pend(finished, step_metrics, batch, placed, waited)
            if tracer.is_over(finished - 1):
                trace(tracer.end)

            last = finished == end
            if holdout and (last or finished % config.eval_every == 0):
                check()
                found = _held_out(program.objective, eval_step, state, frozen, holdout, mesh, reference)
                recorder.held_out(finished, found)
                spent("evaluation")
            due = config.checkpoint_every and finished % config.checkpoint_every == 0
            if last or due or finished in kept or is_time():
                save()
            if stop.reached(finished) and not last:
                save()
                writer.wait()
                ledger.spent("checkpoint", finished)
                raise Preempted(
                    f"{config.name} stopped after step {finished} of {end}, saved as "
                    f"{writer.path(finished)}; run the same command again to continue"
                )

        # Finish: the phase is done when its last checkpoint is committed and its result is written.
        writer.wait()
        ledger.spent("checkpoint", end)
        result = recorder.result(workdir)
        if jax.process_index() == 0 and again:
            store.prune(workdir, config.keep_checkpoints, kept)
        elif jax.process_index() == 0:
            run_files.write_result(workdir, result)
        return result


def _set_aside_damaged(config: PhaseConfig, workdir: Path, report: Report | None, before: int | None = None) -> None:
    for notice in store.set_aside_damaged(workdir, before):
        _say(config, report, notice)


def _say(config: PhaseConfig, report: Report | None, notice: str) -> None:
    log.warning("%s: %s", config.name, notice)
    if report is not None:
        report({"notice": notice})


def _not_finite(finished: int, what: str, loader: Loader, workdir: Path) -> WorkError:
    names = loader.documents_of(finished - 1)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    good = store.latest(workdir)
    return WorkError(
        f"{what} is not finite after step {finished}; {len(names)} documents in its batch: {shown}; "
        f"last good checkpoint: {good or 'none'}"
    )


def _held_out(
    objective: Objective,
    eval_step: Callable[..., tuple[jax.Array, Any]],
    state: TrainState,
    frozen: Frozen | None,
    holdout: Mapping[str, list[Batch]],
    mesh: Mesh,
    reference: Reference | None,
) -> dict[str, dict[str, float | None]]:
    """Returns the loss and the objective's means on each source's held-out batches: {metric: {source: value}}.

    A value is None where it is not finite, or nothing was counted.
    """
    found: dict[str, dict[str, float | None]] = {name: {} for name in ("loss", *objective.means)}
    for name, batches in holdout.items():
        parts = []
        for number, batch in enumerate(batches):
            more = {} if reference is None else reference.of_held_out(name, number, len(batch.tokens))
            parts.append(eval_step(state.params, placement.place_whole(batch, mesh, more), frozen))
        total, sums = jax.tree.map(lambda *each: np.sum(each, axis=0, dtype=np.float64), *jax.device_get(parts))
        for metric, count in {"loss": objective.unit, **objective.means}.items():
            value = total if metric == "loss" else sums[metric]
            found[metric][name] = float(value / sums[count]) if sums[count] and math.isfinite(value) else None
    return found


@functools.lru_cache(maxsize=8)
def _programs(
    program: TrainProgram, mesh: Mesh
) -> tuple[optax.GradientTransformation, Callable[..., Any], Callable[..., Any]]:
    """Returns the optimizer, the compiled train step and the evaluation step.

    They are cached, since a process that trains one phase for several seeds would trace the same program each time.
    """
    frozen = program_lib.abstract_frozen(program, mesh)
    compiled = program_lib.trace(program, mesh).lower().compile()
    evaluate = step.make_eval_step(program.model, mesh, program.adapter, frozen, program.objective)
    return program.adamw, compiled, evaluate


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


@contextlib.contextmanager
def _out_of_memory(config: PhaseConfig) -> Iterator[None]:
    """Turns XLA's report of exhausted device memory into one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise WorkError(
            f"{config.name} does not fit in device memory; raise micro_batches or the mesh, lower batch_rows "
            "or data.seq_len, or set remat"
        ) from error


def _manifest(config: PhaseConfig, start: origin.Origin, loader: Loader, mesh: Mesh) -> manifest.Manifest:
    return manifest.Manifest(
        phase=config.name,
        parent=manifest.parent_of(start.checkpoint) if start.checkpoint else None,
        data={mirror.named(file): hashing.file_sha256(file) for file in loader.files},
        data_fingerprint=loader.fingerprint,
        tokenizer_sha256=start.tokenizer.sha256,
        template_sha256=start.template.sha256 if start.template else "",
        versions=manifest.versions(),
        mesh=dataclasses.asdict(config.mesh),
        seed=config.seed,
        device_kind=mesh.devices.flat[0].device_kind,
        threads=config.threads,
        replaced_template_sha256=start.replaced_template_sha256,
        epochs=loader.epochs(config.steps),
        left_out=loader.left_out,
    )
