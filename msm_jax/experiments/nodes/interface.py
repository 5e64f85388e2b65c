"""The interface of a kind of node: its addresses, its checks, what it will take, and how it runs."""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msm_jax.experiments.worker import Report
from msm_jax.foundation import hashing

if TYPE_CHECKING:
    from msm_jax.experiments.context import Context

DONE = "done.json"
NODE = "node.json"


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of an experiment's graph.

    Attributes:
        id: names the node between runs, whatever its settings.
        kind: a name in `nodes.KINDS`, or the dotted name of a module that defines a kind.
        spec: what its kind needs to know of it.
        parents: ids of the nodes whose results it reads.
        is_content: whether the nodes after it are addressed by the bytes that it produces, so that it must be done
            before their addresses are known.
        before: ids of the nodes that this one checks. A node without results runs before them, if one of them runs.
    """

    id: str
    kind: str
    spec: Any
    parents: tuple[str, ...] = ()
    is_content: bool = False
    before: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Address:
    """The place of one result of a node, and all that the result depends on.

    Attributes:
        id: of the node, and for an eval its name.
        payload: everything that the result depends on, as JSON, from which the hash is computed.
        path: a directory, or a JSON file whose name ends in ".json".
        steps: the checkpoints that a phase must have besides its last one; no part of the hash.
    """

    id: str
    payload: Mapping[str, Any]
    path: Path
    steps: tuple[int, ...] = ()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the payload, 64 hex digits."""
        return hashing.digest(self.payload)

    def description(self) -> dict[str, Any]:
        """Returns what is stored beside the result, so that its hash can be explained."""
        return {"id": self.id, "hash": self.hash, "payload": self.payload}


@dataclasses.dataclass(frozen=True)
class Cost:
    """The time, tokens and money that a node will take, and the devices and threads of its process.

    Attributes:
        seconds: its wall time.
        is_measured: whether `seconds` follows from earlier runs; otherwise it is a first guess.
        is_bound: whether `seconds` is the least time on the accelerators that the experiment names, not a guess.
        updates: optimizer steps.
        tokens: slots of the batches that it trains on, or tokens that it pays for.
        dollars: what it pays, for example to the provider of an API.
        devices: devices of its process.
        threads: CPU threads of its process.
    """

    seconds: float
    is_measured: bool = False
    is_bound: bool = dataclasses.field(default=False, kw_only=True)
    updates: int = 0
    tokens: int = 0
    dollars: float = 0.0
    devices: int = 1
    threads: int = 1


@dataclasses.dataclass(frozen=True)
class NodeKind:
    """A kind of node, which a module offers as `KIND`.

    Each kind decides what survives of a node that was interrupted: `directories.build` deletes or keeps unfinished
    files, as the kind says; a phase continues from its newest checkpoint; each eval is a result of its own.

    Attributes:
        results: returns the addresses of a node's results by name ({"": ...} for a single one), given the node and what
            is known. It is called when all content before the node exists.
        arguments: returns the arguments of `run` as JSON, given the node, its missing results, and what is known.
        run: makes the missing results, given its arguments, their addresses by name, and a function that takes
            progress ({"step", "steps", "eta_seconds", ...}). It runs in a worker process and leaves each result whole
            or not at all.
        is_done: returns whether a result is complete.
        cost: returns what the node will take, given the node, its missing results (none while their addresses
            are not known), and what is known.
        check: refuses settings that cannot work; reads no file.
        check_files: refuses the content of files that the node reads and that exist.
        spans_hosts: whether all hosts of a slice run it together, and process 0 alone writes what is not of the loop;
            otherwise one of them runs it.
    """

    results: Callable[[Node, "Context"], dict[str, Address]]
    arguments: Callable[[Node, Mapping[str, Address], "Context"], Mapping[str, Any]]
    run: Callable[[Mapping[str, Any], Mapping[str, Address], Report], object]
    is_done: Callable[[Address], bool]
    cost: Callable[[Node, Mapping[str, Address], "Context"], Cost]
    check: Callable[[Node, "Context"], object] = lambda node, context: None
    check_files: Callable[[Node, "Context"], object] = lambda node, context: None
    spans_hosts: bool = False


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of installed packages."""
    return {package: importlib.metadata.version(package) for package in packages}
