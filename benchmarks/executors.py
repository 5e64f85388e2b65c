"""What a Ray cluster costs over worker processes: the small experiment's every part, on the cores of this machine.

    python benchmarks/executors.py

Both sides run `cheese_mini.py:tiny` from nothing, in turn. The cluster is two raylets of this machine with half of the
cores each; in a last run, one of them is killed in the middle. It needs Ray: `pip install -r requirements-ray.txt`.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent

_ROUNDS = flags.DEFINE_integer("rounds", 2, "How often each side runs.", 1)


def experiment(workdir: Path, executor: str) -> float:
    """Runs the experiment, and returns the seconds that it took."""
    command = [
        sys.executable, "-m", "msm_jax.experiment", "--config=configs/experiments/cheese_mini.py:tiny",
        f"--workdir={workdir}", f"--executor={executor}",
    ]
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def without_times(workdir: Path) -> Any:
    """Returns the report without what a clock measured."""
    report = json.loads((workdir / "report.json").read_text())
    arms = [cost for arm in report["arm_cost"].values() for cost in (arm["own"], arm["total"])]
    for cost in (*report["cost"].values(), *arms):
        del cost["wall_seconds"], cost["device_seconds"]
    del report["goodput"]
    return report


def main(_: list[str]) -> None:
    """Prints the seconds of both sides, their ratio, and whether the reports are equal."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    second = cluster.add_node(num_cpus=cores)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(_ROUNDS.value):
            for name, executor in (("local", "local"), ("ray", f"ray:{cluster.address}")):
                seconds.setdefault(name, []).append(experiment(Path(directory) / f"{name}{number}", executor))
        losing = threading.Timer(seconds["ray"][0] / 2, cluster.remove_node, (second,), {"allow_graceful": False})
        losing.start()
        seconds["ray, half of it lost in the middle"] = [experiment(Path(directory) / "lost", f"ray:{cluster.address}")]
        losing.join()
        first, *others = (without_times(Path(directory) / name) for name in ("local0", "ray0", "lost"))
        equal = all(report == first for report in others)
    cluster.shutdown()
    local, ray = (min(seconds[name]) for name in ("local", "ray"))
    for name, each in seconds.items():
        print(f"{name}: {', '.join(f'{one:.0f}' for one in each)} s")
    print(f"ray / local: {ray / local:.2f}; reports are {'equal' if equal else 'NOT equal'}, times aside")


if __name__ == "__main__":
    app.run(main)
