"""What the user sees: the live table on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from msm_jax.experiments import live
from msm_jax.experiments.live import Board, duration
from msm_jax.experiments.scheduler import Task

TASKS = [Task("phase/a", "", {}, seconds=30.0), Task("phase/b", "", {}, after=("phase/a",), seconds=5.0)]
PROGRESS = {"step": 40, "steps": 100, "loss": 2.5, "tokens_per_second": 12345.6, "eta_seconds": 12.0}


def drive(board):
    board.expect(TASKS, reused=["world"])
    board.started("phase/a")
    board.progressed("phase/a", PROGRESS)


@pytest.mark.parametrize("terminal", [True, False])
def test_it_shows_what_runs_what_is_done_and_the_time_left(terminal, monkeypatch):
    monkeypatch.setattr(live, "_HEARTBEAT_SECONDS", 0.0)
    out = io.StringIO()
    with Board(Console(file=out, width=150, force_terminal=terminal), "cheap", slots=2) as board:
        drive(board)
        # 12 s for the 60 steps left are 20 for all in place of 30; the next phase is taken to be as much faster.
        assert board.seconds_left() == pytest.approx(12.0 + 5.0 * 20 / 30)
        board.tick()
    shown = out.getvalue()
    for part in ("phase/a", "40/100", "12,346", "2.500", "0 done, 1 reused, 1 waiting; about 15 s left"):
        assert part in shown
    assert ("\x1b[" in shown) is terminal


def test_the_time_left_follows_what_tasks_of_a_kind_took():
    tasks = [Task(f"phase/{i}", "", {}, seconds=30.0) for i in range(3)] + [Task("eval/a", "", {}, seconds=4.0)]
    with Board(Console(file=io.StringIO()), "cheap", slots=1) as board:
        board.expect(tasks, reused=[])
        assert board.seconds_left() == pytest.approx(3 * 30.0 + 4.0)
        board.started("phase/0")
        board.ended("phase/0", 10.0, failed=False)
        assert board.seconds_left() == pytest.approx(2 * 10.0 + 4.0)
        # Continued at step 90 of an earlier run: 2 s are left of it, and a whole phase still takes 20.
        board.started("phase/1")
        board.progressed("phase/1", {"step": 90, "steps": 100, "eta_seconds": 2.0})
        board.ended("phase/1", 2.5, failed=False)
        assert board.seconds_left() == pytest.approx((10.0 + 20.0) / 2 + 4.0)


def test_what_ended_well_is_kept_and_what_ran_is_not_reused():
    out = io.StringIO()
    with Board(Console(file=out, width=150, force_terminal=False), "cheap", slots=2) as board:
        drive(board)
        board.ended("phase/a", 3.0, failed=False)
        board.expect([], reused=["phase/a", "world"])
        board.started("phase/b")
        board.ended("phase/b", 1.0, failed=True)
    assert board.done == {"phase/a": 3.0}
    assert board.seconds_left() == 0.0
    assert "done  phase/a in 3 s, loss 2.500" in out.getvalue()
    assert "FAILED phase/b" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (3599, "59:59"), (7449, "2:04:09")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
