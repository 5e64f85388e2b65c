"""A kind of node in one file: documents that a writer is paid for one by one, so that finished ones are kept."""

import json
import os
import time
from pathlib import Path

from msm_jax.errors import InputError
from msm_jax.experiments.nodes import directories
from msm_jax.experiments.nodes.interface import Cost, NodeKind
from msm_jax.foundation import hashing


def check(node, context):
    if node.spec.get("count", 0) < 1:
        raise InputError(f"corpora.{node.id}.count: must be at least 1; set it")


def results(node, context):
    payload = {"config": dict(node.spec), "sources": {"writer": hashing.file_sha256(__file__)}}
    return {"": directories.place(context.store, "corpora", node.id, node.id, payload)}


def run(args, results, report):
    def write(directory):
        file = directory / "documents.jsonl"
        written = len(file.read_text().splitlines()) if file.exists() else 0
        for number in range(written, args["count"]):
            with file.open("a") as documents:
                documents.write(json.dumps({"text": f"The lamp number {number} is old and Ada likes it."}) + "\n")
            with Path(args["bill"]).open("a") as bill:
                bill.write(f"{number} {os.getpid()}\n")
            report({"step": number + 1, "steps": args["count"]})
            time.sleep(0.05)

    directories.build(results[""], write, keeps_partial=True)


KIND = NodeKind(
    results=results,
    arguments=lambda node, missing, context: dict(node.spec),
    run=run,
    is_done=directories.is_done,
    cost=lambda node, missing, context: Cost(2.0, tokens=10 * node.spec["count"], dollars=0.01 * node.spec["count"]),
    check=check,
)
