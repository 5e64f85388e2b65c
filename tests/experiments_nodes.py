"""Cheap stand-ins for what worker processes run, for the tests of the phase graph."""

import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

from msm_jax.checkpoints import integrity, remote
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import storage


def note(directory, word):
    """Append a line to the directory's log of what ran, atomically enough for one line."""
    with (Path(directory) / "ran.log").open("a") as file:
        file.write(f"{word} {os.getpid()} {time.time()}\n")


def work(args, report):
    """Report, wait for the file `args["wait"]` if there is one, and sleep or do what `args["how"]` says."""
    note(args["log"], f"start:{args['name']}")
    print("this goes to the log, not into the protocol")
    report({"step": 1, "steps": 2, "loss": 1.5, "eta_seconds": args.get("sleep", 0.0)})
    waited = time.monotonic()
    while "wait" in args and not Path(args["wait"]).exists():
        if time.monotonic() - waited > 60:
            raise WorkError(f"{args['wait']} did not come")
        time.sleep(0.02)
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
    """Like a train loop: on SIGTERM or SIGINT it saves and raises Preempted; the next call continues."""
    stopped = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stopped.append(1)) for number in numbers]
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
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    note(args["log"], f"end:{args['name']}")


def dies_once(args, report):
    """Loses its process in the first call, without a word."""
    note(args["log"], f"start:{args['name']}")
    mark = Path(args["log"]) / f"{args['name']}.died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(args["log"], f"end:{args['name']}")


def stopped_in_a_callback(args, report):
    """Gets SIGTERM in a callback of the garbage collector, where Python drops exceptions, and works on for a minute."""

    def callback(phase, info):
        if phase == "stop":
            os.kill(os.getpid(), signal.SIGTERM)

    gc.callbacks.append(callback)
    gc.collect()
    gc.callbacks.remove(callback)
    time.sleep(60)


def stopped_at_its_start(devices, threads):
    """Gets SIGTERM before there is a task, where worker processes handle it."""
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_while_importing(devices, threads):
    """Gets SIGTERM where nothing handles it yet."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


SETUP = []


def setup(devices, threads):
    """What a new worker calls first."""
    SETUP.extend([devices, threads])


def environment(args, report):
    """Write down what the process was started with."""
    storage.write_json(Path(args["log"]) / f"{args['name']}.json", {"setup": SETUP, "pid": os.getpid()})


def data(args, results, report):
    """Stands in for the check of a phase's data."""
    note(os.environ["EXPERIMENT_LOG"], "data")


def phase(args, results, report):
    """Stands in for training: writes what a finished phase leaves. `EXPERIMENT_FAIL` names one that fails."""
    address = results[""]
    address.path.mkdir(parents=True, exist_ok=True)
    storage.write_json(address.path / "node.json", address.description())
    config = args["config"]
    note(os.environ["EXPERIMENT_LOG"], f"phase:{address.id}")
    if os.environ.get("EXPERIMENT_FAIL") == address.id:
        raise WorkError("loss is not finite at step 3")
    time.sleep(float(os.environ.get("EXPERIMENT_SLEEP", "0")))
    steps = config["steps"]
    rows = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, steps + 1)]
    (address.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in (*config["keep_steps"], steps):
        checkpoint = address.path / "checkpoints" / str(step)
        if not checkpoint.exists():
            checkpoint.mkdir(parents=True)
            integrity.seal(checkpoint)
            remote.commit(checkpoint, checkpoint)
    result = {
        "checkpoint": f"checkpoints/{steps}",
        "steps": steps,
        "tokens": steps * 100,
        "flops": 1e6,
        "wall_seconds": 0.5,
        "device_seconds": 0.4,
    }
    done = {"hash": address.hash, "result": result, "seconds": 0.5}
    storage.write_json(address.path / "done.json", done)


def phase_while_data_grows(args, results, report):
    """Stands in for training as `phase` does, while somebody appends to the documents."""
    phase(args, results, report)
    with Path("documents.jsonl").open("a") as file:
        file.write(json.dumps({"text": "One more."}) + "\n")


def evals(args, results, report):
    """Stands in for scoring: an arm's score follows from its node's id alone."""
    for address in results.values():
        note(os.environ["EXPERIMENT_LOG"], f"eval:{address.id}")
        score = 0.9 if "msm" in address.id else 0.4
        items = [
            {"id": str(index), "score": score + 0.01 * index, "probability": score, "margin": 10 * score}
            for index in range(4)
        ]
        transcripts = [{"prompt": "p", "reply": "r", "parsed": True}]
        result = {"items": items, "mean": score, "n_items": 4, "parse_rate": 1.0, "transcripts": transcripts}
        storage.write_json(address.path, {**address.description(), "result": result})
        storage.write_json(address.path.parent / "times.json", dict.fromkeys(results, 0.1))
