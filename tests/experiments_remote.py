"""Stand-ins for what the worker processes of an experiment at a URL run: their checkpoints and journals are real."""

import contextlib
import os
import time

import objects  # noqa: F401  # flaky:// is known where this is imported
from experiments_nodes import evals as scored
from experiments_nodes import note
from experiments_nodes import phase as trained

from msm_jax.checkpoints import integrity, remote, store
from msm_jax.experiments.nodes import evals as evals_node
from msm_jax.foundation import lock, mirror, retrying
from msm_jax.synthesis.journal import Journal, Key, Reply

FAKES = {
    "data": "experiments_nodes:data", "phase": "experiments_remote:phase", "eval": "experiments_remote:evals",
}  # fmt: skip


def quick(devices=1, threads=1):
    """Shortens what is waited for in tests."""
    mirror._PUSH_SECONDS, lock._SETTLE_SECONDS, retrying._PAUSE_SECONDS = 0.1, 0.0, 0.001


def phase(args, results, report):
    """Saves a checkpoint after each fifth of the steps, and continues from the newest."""
    address, steps = results[""], args["config"]["steps"]
    before = store.latest(address.path)
    if before is not None:
        remote.complete(before)
        assert (before / "params" / "w").read_text() == f"{address.id} {before.name}"
    for step in range(steps // 5, steps + 1, steps // 5):
        if before is not None and step <= int(before.name):
            continue
        note(os.environ["EXPERIMENT_LOG"], f"step:{address.id}@{step}")
        time.sleep(float(os.environ.get("EXPERIMENT_SLEEP", "0")))
        final = address.path / "checkpoints" / str(step)
        written = final.with_name(f"{step}.saving")
        (written / "params").mkdir(parents=True)
        (written / "params" / "w").write_text(f"{address.id} {step}")
        integrity.seal(written)
        remote.commit(written, final)
        written.rename(final)
    trained(args, results, report)


def evals(args, results, report):
    """Asks for ten replies, which cost money, before it scores."""
    for name, address in results.items():
        with contextlib.closing(Journal(address.path.with_name(evals_node.REPLIES))) as journal:
            for number in range(10):
                key = Key("eval", "", f"{name}{number}", 0, "model")
                if journal.find(key) is None:
                    note(os.environ["EXPERIMENT_LOG"], f"paid:{address.id}@{number}")
                    journal.store(key, Reply("yes", "stop", 1, 1))
                    time.sleep(float(os.environ.get("EXPERIMENT_SLEEP", "0")))
    scored(args, results, report)
