"""Cheap stand-ins for what worker processes run, for the tests of the phase graph."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.experiments.files import write_json


def note(directory, word):
    """Append a line to the directory's log of what ran, atomically enough for one line."""
    with (Path(directory) / "ran.log").open("a") as file:
        file.write(f"{word} {os.getpid()} {time.time()}\n")


def work(args, report):
    """Sleep, report, and do what `args["how"]` says."""
    note(args["log"], f"start:{args['name']}")
    print("this goes to the log, not into the protocol")
    report({"step": 1, "steps": 2, "loss": 1.5, "eta_seconds": args.get("sleep", 0.0)})
    how = args.get("how", "")
    if how == "input":
        raise InputError("data.jsonl:3: bad")
    if how == "fail":
        raise WorkError("disk full")
    if how == "crash":
        raise KeyError("lost my key")
    if how == "kill":
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(args.get("sleep", 0.0))
    note(args["log"], f"end:{args['name']}")


def saves_when_stopped(args, report):
    """Like a train loop: on SIGTERM it saves and raises Preempted; the next call continues."""
    stopped = []
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    state = Path(args["log"]) / f"{args['name']}.state"
    step = int(state.read_text()) if state.exists() else 0
    note(args["log"], f"start:{args['name']}@{step}")
    try:
        while step < args["steps"]:
            time.sleep(0.02)
            step += 1
            if stopped:
                time.sleep(0.2)
                state.write_text(str(step))
                raise Preempted(f"saved at {step}")
    finally:
        signal.signal(signal.SIGTERM, before)
    note(args["log"], f"end:{args['name']}")


SETUP = []


def setup(devices, threads):
    """What a new worker calls first."""
    SETUP.extend([devices, threads])


def environment(args, report):
    """Write down what the process was started with."""
    write_json(Path(args["log"]) / f"{args['name']}.json", {"setup": SETUP, "pid": os.getpid()})


def data(args, report):
    """Stands in for the check of a phase's data."""
    note(os.environ["EXPERIMENT_LOG"], "data")


def phase(args, report):
    """Stands in for training: writes what a finished phase leaves. `EXPERIMENT_FAIL` names one that fails."""
    directory = Path(args["dir"])
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "node.json", args["description"])
    config = args["config"]
    note(os.environ["EXPERIMENT_LOG"], f"phase:{args['description']['id']}")
    if os.environ.get("EXPERIMENT_FAIL") == args["description"]["id"]:
        raise WorkError("loss is not finite at step 3")
    time.sleep(float(os.environ.get("EXPERIMENT_SLEEP", "0")))
    steps = config["steps"]
    rows = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, steps + 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "checkpoints" / str(steps)).mkdir(parents=True)
    result = {
        "checkpoint": f"checkpoints/{steps}",
        "steps": steps,
        "tokens": steps * 100,
        "flops": 1e6,
        "wall_seconds": 0.5,
        "device_seconds": 0.4,
    }
    done = {"hash": args["description"]["hash"], "result": result, "seconds": 0.5}
    write_json(directory / "done.json", done)


def evals(args, report):
    """Stands in for scoring: an arm's score follows from its node's id alone."""
    for spec in args["evals"]:
        note(os.environ["EXPERIMENT_LOG"], f"eval:{spec['description']['id']}")
        path = Path(spec["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        score = 0.9 if "msm" in spec["description"]["id"] else 0.4
        items = [{"id": str(index), "score": score + 0.01 * index} for index in range(4)]
        transcripts = [{"prompt": "p", "reply": "r", "parsed": True}]
        result = {"items": items, "mean": score, "n_items": 4, "parse_rate": 1.0, "transcripts": transcripts}
        write_json(path, {**spec["description"], "result": result})
    seconds = {spec["name"]: 0.1 for spec in args["evals"]}
    write_json(Path(args["evals"][0]["path"]).parent / "times.json", seconds)
