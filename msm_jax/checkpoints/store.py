"""Checkpoints: self-contained, saved in the background, committed by a rename, and loaded onto any mesh.

A checkpoint is the directory RUN/checkpoints/STEP. Only this module imports Orbax (v1). Each top-level entry of the
tree (params, opt_state, step) is an Orbax checkpointable, so that a phase can load the parameters alone. The
assets (tokenizer files, chat template) are one uint8 array, and `info` and the index of the assets are metadata.

Orbax writes STEP.saving. It is renamed to STEP once it has its manifest (`integrity`), and what is read is checked by
it. STEP.damaged is a checkpoint that was set aside. What lies at a URL is written and read through a local copy
(`remote`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from msm_jax.checkpoints import integrity, remote, retention
from msm_jax.errors import InputError, WorkError, causes
from msm_jax.foundation import hashing, mirror, storage, termination
from msm_jax.parallel import distributed

FORMAT = 1
_ASSETS = "assets"
# Larger arrays are stored in pieces of at most this size.
_PIECE_BYTES = 64 * 2**20
# The exceptions of Orbax and TensorStore when they cannot read or write. Orbax reports any failure inside a handler
# as NoEntryError ("incompatible handler"), which is a KeyError.
_FAILURES = (OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError)


class Writer:
    """Saves the checkpoints of one run in the background, and keeps the newest `keep` and those of the steps `always`.

    At most one save is in progress. An older checkpoint is deleted only after a newer one is committed; see `prune`. In
    a multi-host run every host calls every method.
    """

    def __init__(self, run_dir: Path, keep: int = 2, always: Collection[int] = ()) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._root = Path(run_dir) / "checkpoints"
        self._keep, self._always = keep, always
        self._pending: tuple[int, Future[None]] | None = None
        self._committer = ThreadPoolExecutor(1)
        if jax.process_index() == 0:
            retention.remove_leftovers(self._root)

    def path(self, step: int) -> Path:
        """Returns the directory of the checkpoint of a step."""
        return self._root / str(step)

    def save(
        self, step: int, tree: Mapping[str, Any], info: Mapping[str, Any], assets: Mapping[str, bytes]
    ) -> None:
        """Copies the arrays to the host and writes them in the background; does nothing if the checkpoint exists.

        Args:
            step: the number of finished optimizer steps, which names the checkpoint.
            tree: entries such as "params", "opt_state" and "step", each a pytree of arrays. The arrays may be donated
                as soon as this returns.
            info: a JSON value, which `read_info` returns.
            assets: {file name: content}, which `read_assets` returns.

        Raises:
            WorkError: this save cannot start, or the previous one failed (disk full, no permission).
        """
        self.wait()
        path = self._root / str(step)
        if path.exists():
            return
        entries, metadata = _contents(tree, info, assets)
        if _lies_in_host_memory(entries):
            # All that Orbax does can wait for the background, once there is a copy.
            entries = jax.tree.map(np.array, entries)
            self._pending = (step, self._committer.submit(lambda: self._end(step, _begin(path, entries, metadata))))
            return
        try:
            response = _begin(path, entries, metadata)
        except _FAILURES as error:
            raise self._failed(step, error) from error
        self._pending = (step, self._committer.submit(self._end, step, response))

    def wait(self) -> None:
        """Waits until the save in progress is committed and older checkpoints are deleted.

        Raises:
            WorkError: the save failed; its files are removed, and earlier checkpoints are unchanged.
        """
        if self._pending is None:
            return
        step, commit = self._pending
        self._pending = None
        try:
            commit.result()
        except _FAILURES as error:
            raise self._failed(step, error) from error

    def _end(self, step: int, response: ocp.AsyncResponse[None]) -> None:
        _commit(self.path(step), response)
        if jax.process_index() == 0:
            prune(self._root.parent, self._keep, self._always, sound=step)

    def _failed(self, step: int, error: BaseException) -> WorkError:
        if jax.process_index() == 0:
            retention.clear(self._root)
        good = latest(self._root.parent)
        kept = f"the last good checkpoint is {good}" if good else "there is no earlier checkpoint"
        return WorkError(f"saving checkpoint {self._root / str(step)} failed: {reason(error)}; {kept}")


def save(path: Path, tree: Mapping[str, Any], info: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
    """Writes one checkpoint to `path`, which must not exist, and returns when it is complete; see `Writer.save`.

    Raises:
        WorkError: the checkpoint cannot be written (disk full, no permission).
    """
    entries, metadata = _contents(tree, info, assets)
    try:
        _commit(path, _begin(path, entries, metadata))
    except _FAILURES as error:
        raise WorkError(f"saving checkpoint {path} failed: {reason(error)}") from error


def all_steps(run_dir: Path) -> list[int]:
    """Returns the steps of the committed checkpoints of a run, ascending."""
    root = Path(run_dir) / "checkpoints"
    if not root.is_dir():
        return []
    # A save is renamed from a temporary name when it is complete, so a directory named by an integer is committed.
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdecimal() and p.is_dir())


def at_step(run_dir: Path, step: int) -> Path | None:
    """Returns the committed checkpoint of one step of a run, None where there is none."""
    path = Path(run_dir) / "checkpoints" / str(step)
    return path if path.is_dir() else None


def latest(run_dir: Path, before: int | None = None) -> Path | None:
    """Returns the newest committed checkpoint of a run, or the newest of a step below `before`; None without one."""
    steps = [step for step in all_steps(run_dir) if before is None or step < before]
    return Path(run_dir) / "checkpoints" / str(steps[-1]) if steps else None


def prune(run_dir: Path, keep: int, always: Collection[int] = (), sound: int | None = None) -> None:
    """Deletes the checkpoints of a run, except those of the steps `always`, the newest `keep` of the others, and those
    that another run refers to.

    Deletes none if all that would remain are damaged; the one of step `sound` is known not to be.
    """
    steps, root = all_steps(run_dir), Path(run_dir) / "checkpoints"
    old = retention.deletable(steps, keep, {*always, *retention.referred(Path(run_dir))})
    remaining = sorted(set(steps) - set(old), key=lambda step: (step == sound, step), reverse=True)
    if old and any(step == sound or not _fault(root / str(step)) for step in remaining):
        for step in old:
            retention.remove(root / str(step))


def set_aside_damaged(run_dir: Path, before: int | None = None) -> list[str]:
    """Renames the newest checkpoint of a run to STEP.damaged while it is damaged, so that the one before it is used.

    Every host of a run calls this, and checks its part of the files.

    Args:
        run_dir: the run.
        before: only checkpoints of steps below this one; None for all.

    Returns:
        A line on each checkpoint that was set aside: what is wrong with it, and where it is now.

    Raises:
        WorkError: it cannot be renamed.
    """
    said = []
    while (path := latest(run_dir, before)) is not None:
        wrong = _fault(path, None, jax.process_index(), jax.process_count())
        if not distributed.any_host(bool(wrong)):
            break
        aside = retention.aside(path)
        if jax.process_index() == 0:
            with storage.writing(aside):
                remote.commit(path, aside)
                remote.remove(path)
                path.rename(aside)
        distributed.any_host(False)  # no host goes on before it is renamed
        said.append(f"{path} is damaged ({wrong or 'found by another host'}); set aside as {aside.name}")
    return said


def resolve(path: Path | str) -> Path:
    """Returns the checkpoint directory that `path` names: `path` itself, or the newest checkpoint of a run directory.

    For a URL, it is a copy on this machine.

    Raises:
        InputError: `path` is neither a checkpoint nor a run directory with one.
        WorkError: the storage of a URL does not answer.
    """
    if storage.is_url(path):
        copy = remote.find(str(path))
        if copy is None:
            raise InputError(f"{path}: no such checkpoint or run directory")
        return copy
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such checkpoint or run directory")
    found = latest(path) or (latest(path.parent) if path.name == "checkpoints" else None)
    if found is not None:
        return found
    remote.complete(path, [_ASSETS])
    if not ocp.is_orbax_checkpoint(path.absolute()) or not (path / _ASSETS).is_dir():
        raise InputError(
            f"{path}: neither a checkpoint nor a run with one; give RUN/checkpoints/STEP or a run directory"
        )
    return path


def read_info(path: Path | str) -> dict[str, Any]:
    """Returns the `info` that was given to `save`.

    Raises:
        InputError: there is no checkpoint at `path`, or it is damaged.
    """
    return _metadata(resolve(path))["info"]


def read_assets(path: Path | str) -> dict[str, bytes]:
    """Returns the assets that were given to `save`, {file name: content}, after checking their SHA-256.

    Raises:
        InputError: there is no checkpoint at `path`, or it is damaged.
    """
    path = resolve(path)
    index = _metadata(path)["assets"]
    check(path, [_ASSETS])
    try:
        loaded = ocp.load_checkpointables(path.absolute(), {_ASSETS: None})
    except _FAILURES as error:
        raise _damaged(path, reason(error)) from error
    blob = np.asarray(loaded[_ASSETS]["blob"]).tobytes()
    assets, start = {}, 0
    for name, entry in index.items():
        data = blob[start : start + entry["size"]]
        start += entry["size"]
        if hashing.sha256(data) != entry["sha256"]:
            raise InputError(f"{path}: asset {name} is damaged; use another checkpoint")
        assets[name] = data
    return assets


def load(
    path: Path | str, abstract_tree: Mapping[str, Any], advice: str = "use the config it was made with"
) -> dict[str, Any]:
    """Loads the entries of `abstract_tree` onto its shardings, whatever mesh they were saved from.

    Args:
        path: a checkpoint or run directory.
        abstract_tree: some of the saved entries ("params" alone, for example), each a pytree of
            `jax.ShapeDtypeStruct` with sharding. Arrays are cast to its dtypes.
        advice: what the user should do if shapes differ, for the error.

    Raises:
        InputError: there is no checkpoint at `path`, it is damaged, or its arrays have other names or shapes.
    """
    path = resolve(path)
    check(path, abstract_tree)
    try:
        return ocp.load_checkpointables(path.absolute(), dict(abstract_tree))
    except _FAILURES as error:
        _compare(path, abstract_tree, advice)
        raise _damaged(path, reason(error)) from error


def of_this_host() -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which one of several hosts loads checkpoints by itself; Orbax else waits for all of them."""
    host = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
        )
    )


def check(path: Path, entries: Collection[str]) -> None:
    """Reads the files of some entries of a checkpoint and compares them with its manifest, if it has one.

    Raises:
        InputError: a file is not as it was written, or is missing.
    """
    wrong = _fault(path, entries)
    if wrong:
        raise _damaged(path, wrong)


def shapes(path: Path | str, entry: str) -> dict[tuple[str, ...], tuple[tuple[int, ...], np.dtype]]:
    """Returns the shape and dtype of each array of an entry, by its path in the tree, without loading the arrays.

    Raises:
        InputError: there is no checkpoint at `path`, it has no such entry, or it is damaged.
    """
    path = resolve(path)
    leaves = jax.tree_util.tree_flatten_with_path(_tree_metadata(path, entry))[0]
    return {tuple(map(_key_name, keys)): (tuple(leaf.shape), np.dtype(leaf.dtype)) for keys, leaf in leaves}


def _contents(
    tree: Mapping[str, Any], info: Mapping[str, Any], assets: Mapping[str, bytes]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the entries that Orbax saves, and the metadata of the checkpoint."""
    index = {
        name: {"size": len(data), "sha256": hashing.sha256(data)} for name, data in sorted(assets.items())
    }
    # There is one byte more than the assets have, since TensorStore refuses an empty array.
    blob = np.frombuffer(b"".join(assets[name] for name in index) + b"\n", np.uint8)
    metadata = {"format": FORMAT, "info": dict(info), "assets": index, "manifest": integrity.NAME}
    return {**tree, _ASSETS: {"blob": blob}}, metadata


def _lies_in_host_memory(tree: Any) -> bool:
    """Returns whether all arrays of a tree lie in the memory of this process, not on accelerators or other hosts."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return all(leaf.is_fully_addressable and leaf.platform() == "cpu" for leaf in arrays)


def _begin(path: Path, entries: Mapping[str, Any], metadata: Mapping[str, Any]) -> ocp.AsyncResponse[None]:
    """Begins to write a checkpoint; returns when it no longer needs the arrays of `entries`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _saving():
        return ocp.save_checkpointables_async(_saving_name(path), dict(entries), custom_metadata=dict(metadata))


def _saving_name(path: Path) -> Path:
    return path.absolute().with_name(f"{path.name}.saving")


def _commit(path: Path, response: ocp.AsyncResponse[None]) -> None:
    """Waits until the files of a checkpoint are written, adds the manifest and gives the checkpoint its name.

    The first host does so; the others wait for it.
    """
    response.result()
    written = _saving_name(path)
    if jax.process_index() == 0:
        integrity.seal(written)
        remote.commit(written, path)
        written.rename(path)
        storage.sync_directory(path.parent)
        return
    while not path.exists():
        if not written.exists() and not path.exists():
            raise OSError("process 0 could not commit it")
        time.sleep(0.05)


def _fault(path: Path, entries: Collection[str] | None = None, part: int = 0, parts: int = 1) -> str:
    """Returns what is wrong with a checkpoint, "" for nothing; see `integrity.fault`. Mends a local copy of a URL."""
    remote.complete(path, entries)
    wrong = _fault_here(path, entries, part, parts)
    return _fault_here(path, entries, part, parts) if wrong and remote.renew(path) else wrong


def _fault_here(path: Path, entries: Collection[str] | None, part: int, parts: int) -> str:
    if (path / integrity.NAME).exists():
        return integrity.fault(path, entries, part, parts, is_copy=mirror.url_of(path) is not None)
    try:
        found = ocp.metadata(path.absolute(), _ASSETS).custom_metadata
    except _FAILURES as error:
        return reason(error)
    return f"{integrity.NAME} is missing" if isinstance(found, dict) and "manifest" in found else ""


def _saving() -> ocp.Context:
    """Returns a context that stores large arrays in pieces, and stacked layers one by one, so that each can be read."""
    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def pieces(keys: Any, value: Any) -> Any:
        if getattr(value, "nbytes", 0) <= _PIECE_BYTES:
            return None
        layered = any(_key_name(key) == "layers" for key in keys)
        return options(chunk_byte_size=_PIECE_BYTES, shard_axes=(0,) if layered else ())

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = pieces
    return context


def _metadata(path: Path) -> dict[str, Any]:
    check(path, [])
    remote.complete(path, [_ASSETS])
    try:
        found = ocp.metadata(path.absolute(), _ASSETS).custom_metadata
    except _FAILURES as error:
        raise _damaged(path, reason(error)) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InputError(
            f"{path}: its metadata is damaged or not of checkpoint format {FORMAT}; use another one"
        )
    return found


def _compare(path: Path, abstract_tree: Mapping[str, Any], advice: str) -> None:
    """Refuses names and shapes that differ, with a clearer message than that of Orbax."""
    for entry, abstract in abstract_tree.items():
        want, have = _shapes(abstract), _shapes(_tree_metadata(path, entry))
        for name in sorted(want.keys() | have.keys()):
            if want.get(name) != have.get(name):
                raise InputError(
                    f"{path}: {entry}{name} is {have.get(name, 'missing')} in the checkpoint and "
                    f"{want.get(name, 'missing')} in this model; {advice}"
                )


def _tree_metadata(path: Path, entry: str) -> Any:
    remote.complete(path, [entry])
    if not (path / entry).is_dir():
        raise InputError(f'{path}: holds no "{entry}"')
    try:
        return ocp.metadata(path.absolute(), entry).metadata
    except _FAILURES as error:
        raise _damaged(path, reason(error)) from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"".join(f".{_key_name(key)}" for key in keys): tuple(leaf.shape) for keys, leaf in leaves}


def _key_name(key: Any) -> str:
    # Orbax returns namedtuples as dicts, so an attribute and a key with the same name are the same place.
    return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))


def _damaged(path: Path, wrong: str) -> InputError:
    before = latest(path.parent.parent, int(path.name)) if path.name.isdecimal() else None
    other = f"use another one, such as {before}," if before else "use another one,"
    return InputError(
        f"{path}: the checkpoint is damaged ({wrong}); {other} or rename it to {path.name}.damaged and run again what "
        "made it"
    )


def reason(error: BaseException) -> str:
    """Returns the first cause in a chain of exceptions, in one line.

    Raises:
        Terminated: a signal is among the causes, so that nothing is wrong with the files.
    """
    if termination.led_to(error):
        raise termination.Terminated from error
    *_, error = causes(error)
    text = " ".join(str(error).split())
    for known in ("No space left on device", "File too large", "Permission denied", "Disk quota exceeded"):
        if known in text:
            return known.lower()
    return f"{type(error).__name__}: {text[:200]}"
