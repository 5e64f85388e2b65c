"""SIGTERM as an exception: while modules are imported, as the cause of another error, and when the work is done."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from msm_jax.checkpoints import store
from msm_jax.errors import InputError, WorkError
from msm_jax.experiments import worker
from msm_jax.foundation import termination
from msm_jax.foundation.termination import Terminated

AT_EXIT = """
import atexit, os, signal
from msm_jax import cli
atexit.register(lambda: print("at the end", flush=True))
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
cli.run(lambda: print("done"))
"""


def test_a_module_is_imported_to_its_end_before_a_signal_is_heard(tmp_path, monkeypatch):
    (tmp_path / "stopped_at_import.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), termination.raising():
        worker.resolve("stopped_at_import:WHOLE")
    assert sys.modules.pop("stopped_at_import").WHOLE
    assert signal.getsignal(signal.SIGTERM) == before
    with termination.raising():
        assert worker.resolve("os:getpid") is os.getpid


@pytest.mark.parametrize("error", [InputError, WorkError, ImportError, RuntimeError])
def test_an_error_that_a_signal_led_to_ends_as_the_signal(error):
    def fail(number):
        try:
            signal.raise_signal(number)
        finally:
            raise error("as a library says")

    with pytest.raises(Terminated), termination.raising():
        fail(signal.SIGTERM)
    with pytest.raises(error, match="as a library says"), termination.raising():
        fail(0)


def test_a_task_that_a_signal_has_failed_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "failing_task.py").write_text(
        "from msm_jax.errors import InputError\nfrom msm_jax.foundation.termination import Terminated\n"
        "def call(args, report):\n"
        "    raise InputError(args) from (Terminated() if args == 'stopped' else None)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ended = [worker.run({"id": "a", "call": "failing_task:call", "args": each}, list) for each in ("stopped", "bad")]
    assert ended[0] == {"event": "stopped", "id": "a"}
    assert ended[1] == {"event": "failed", "id": "a", "kind": "InputError", "message": "bad"}


def test_a_signal_while_a_checkpoint_is_read_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "3"
    store.save(path, {"params": {"w": np.ones(2, np.float32)}}, {"step": 3}, {"vocab": b"a"})

    def stopped(*_):
        """Fails as Orbax does where an exception meets it within a handler."""
        try:
            raise Terminated
        except Terminated as error:
            raise KeyError("incompatible handler") from error

    for name in ("load_checkpointables", "metadata"):
        monkeypatch.setattr(store.ocp, name, stopped)
    with pytest.raises(Terminated):
        store.load(path, {"params": {}})
    with pytest.raises(Terminated):
        store.read_info(path)
    (path / store.integrity.NAME).unlink()
    with pytest.raises(Terminated):
        store.set_aside_damaged(tmp_path)
    assert path.is_dir()


def test_a_signal_that_comes_when_the_work_is_done_does_not_hide_its_status():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stdout) == (0, "done\nat the end\n"), done.stderr
