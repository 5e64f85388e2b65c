"""Runs a node in a worker process, unless another experiment with the same store has made its results by then."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.checkpoints import workdirs
from msm_jax.data import files
from msm_jax.errors import InputError
from msm_jax.experiments import nodes
from msm_jax.experiments.nodes.interface import Address
from msm_jax.experiments.worker import Report, resolve
from msm_jax.foundation import hashing, lock
from msm_jax.parallel.hosts import Hosts


def start(devices: int, threads: int) -> None:
    """Sets up logging, the compilation cache and the backend of a new worker; see `cli`."""
    from msm_jax import cli

    cli.set_up()
    cli.prepare_backend(devices=devices, threads=threads)


def to_json(addresses: Mapping[str, Address]) -> dict[str, Any]:
    """Returns addresses as the arguments of `run` hold them."""
    return {
        name: {"id": each.id, "payload": each.payload, "path": str(each.path), "steps": each.steps}
        for name, each in addresses.items()
    }


def spans_hosts(args: Mapping[str, Any]) -> bool:
    """Returns whether all hosts of a slice run a node together, given the arguments of its `run`."""
    return nodes.find(args["kind"]).spans_hosts


def run(args: Mapping[str, Any], report: Report, hosts: Hosts | None = None) -> None:
    """Makes the results of `args["results"]` that are still missing, and pushes them where the store is at a URL.

    Args:
        args: "kind"; "call", "module:function" in place of the kind's own `run`, or ""; "arguments" of it;
            "results", see `to_json`; "reads", {data path: SHA-256} as it was planned; "lock", a file to lock while the
            node runs, "" for none.
        report: takes progress.
        hosts: those that run it together, of which the first one holds the lock and says what is missing.

    Raises:
        InputError: a data file is not as it was planned, so that the results would have the address of others.
        WorkError: the results cannot be pushed.
    """
    kind = nodes.find(args["kind"])
    call = resolve(args["call"]) if args["call"] else kind.run
    results = {
        name: Address(each["id"], each["payload"], Path(each["path"]), tuple(each["steps"]))
        for name, each in args["results"].items()
    }
    if not args["lock"]:
        call(args["arguments"], results, report)
        return
    places = {each.path.parent if each.path.suffix == ".json" else each.path for each in results.values()}
    with contextlib.ExitStack() as stack:
        missing = results
        if hosts is None or hosts.index == 0:
            others_work = {"note": "waits for another run to make it"}
            stack.enter_context(lock.exclusive(Path(args["lock"]), lambda: report(others_work)))
            report({"note": ""})
            missing = {name: address for name, address in results.items() if not kind.is_done(address)}
        if hosts is not None:
            names = hosts.first(list(missing))
            missing = {name: results[name] for name in names}
        if missing:
            _refuse_changed(args["reads"])
            with workdirs.pushed(*places):
                call(args["arguments"], missing, report)


def _refuse_changed(reads: Mapping[str, str]) -> None:
    for path, sha256 in reads.items():
        if hashing.files_sha256(files.resolve(path)) != sha256:
            raise InputError(f"{path}: changed after the run was planned; run the same command again")
