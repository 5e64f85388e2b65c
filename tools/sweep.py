"""Runs one experiment over several worlds, a core each, and shows all of them in one table.

    python tools/sweep.py --config=configs/experiments/cheese_mini.py --worlds=100-109 --workdir=runs/sweep

Each world is an experiment of its own under WORKDIR/WORLD; running the sweep again does only what is missing.
WORKDIR/sweep.md and sweep.json hold the table and the commit that it was made with. Exit status: 0 when every
world ran, else that of the first experiment that did not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

CONTRASTS = ("dissociation/conflict", "dissociation/prefer_affordability", "dissociation/prefer_tradition")
LEAST_GATE, LEAST_CONFLICT = 0.95, 0.30


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the table shows of one report.json; `held` says whether the gate and the effect are there."""
    gate = report["arms"]["base"]["gate"]["mean"]
    found = {name: report["contrasts"][name] for name in CONTRASTS}
    conflict = found["dissociation/conflict"]
    return {
        "gate": gate,
        "contrasts": {name: {"diff": c["diff"], "ci95": list(c["ci95"])} for name, c in found.items()},
        "held": gate >= LEAST_GATE and conflict["diff"] >= LEAST_CONFLICT and conflict["ci95"][0] > 0,
    }


def table(worlds: Mapping[int, Mapping[str, Any]]) -> str:
    """A Markdown table with a row per world, and below it how many held and the mean of each contrast."""
    rows = [["world", "gate", *CONTRASTS, "gate and conflict hold"]]
    rows.append(["---"] * len(rows[0]))
    for seed, world in sorted(worlds.items()):
        cells = [
            f"{c['diff']:+.2f} [{c['ci95'][0]:+.2f}, {c['ci95'][1]:+.2f}]"
            for c in (world["contrasts"][name] for name in CONTRASTS)
        ]
        rows.append([str(seed), f"{world['gate']:.3f}", *cells, "yes" if world["held"] else "no"])
    gate = statistics.fmean(world["gate"] for world in worlds.values())
    means = [
        f"{statistics.fmean(world['contrasts'][name]['diff'] for world in worlds.values()):+.2f}"
        for name in CONTRASTS
    ]
    held = sum(world["held"] for world in worlds.values())
    rows.append(["mean", f"{gate:.3f}", *means, f"{held} of {len(worlds)}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def commit() -> str:
    """The commit of the checkout, with a mark where files differ from it; empty outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def run_world(config: str, seed: int, root: Path) -> tuple[int, int, float]:
    """Runs one world on one core, its output in ROOT/SEED.log; returns (seed, exit status, minutes)."""
    started = time.monotonic()
    command = [sys.executable, "-m", "msm_jax.experiment", f"--config={config}", "--config.workers=1"]
    with open(root / f"{seed}.log", "a", encoding="utf-8") as log:
        done = subprocess.run(
            [*command, f"--config.world.seed={seed}", f"--workdir={root / str(seed)}"], stdout=log, stderr=log
        )
    return seed, done.returncode, (time.monotonic() - started) / 60


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--config", required=True, help="FILE[:ARG] of an experiment with a generated world")
    parser.add_argument("--worlds", default="100-109", help="seeds FIRST-LAST")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="worlds side by side, a core each")
    flags = parser.parse_args()
    first, last = map(int, flags.worlds.split("-"))

    flags.workdir.mkdir(parents=True, exist_ok=True)
    state = flags.workdir / "sweep.json"
    commits = set(json.loads(state.read_text())["commits"]) if state.exists() else set()
    worlds: dict[int, dict[str, Any]] = {}
    with futures.ThreadPoolExecutor(flags.jobs) as pool:
        started = [pool.submit(run_world, flags.config, seed, flags.workdir) for seed in range(first, last + 1)]
        for future in futures.as_completed(started):
            seed, status, minutes = future.result()
            if status:
                print(f"world {seed}: exit status {status}, see {flags.workdir / f'{seed}.log'}; run the sweep again")
                pool.shutdown(cancel_futures=True)
                return status
            worlds[seed] = summary(json.loads((flags.workdir / str(seed) / "report.json").read_text()))
            print(f"world {seed}: {minutes:.1f} min, {len(worlds)} of {len(started)} done", flush=True)
            commits.add(commit())
            record = {"commits": sorted(commits), "config": flags.config, "worlds": dict(sorted(worlds.items()))}
            state.write_text(json.dumps(record, indent=2))
            (flags.workdir / "sweep.md").write_text(table(worlds))
    print(table(worlds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
