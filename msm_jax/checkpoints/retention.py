"""What may be deleted below RUN/checkpoints, and deleting it so that nothing is ever half there under a valid name."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from msm_jax.checkpoints import remote
from msm_jax.errors import WorkError
from msm_jax.foundation import hashing, mirror, storage

_REFERENCES = "references"
_NOTE = re.compile(r"(\d+)-.*\.json")
_DAMAGED = re.compile(r"\d+\.damaged(\.\d+)?")


def deletable(steps: Sequence[int], keep: int, always: Collection[int]) -> list[int]:
    """Returns which of the ascending `steps` go: all but those of `always` and the newest `keep` of the others."""
    return [step for step in steps if step not in always][:-keep]


def refer(checkpoint: Path, run_dir: Path) -> None:
    """Notes beside a checkpoint that the run in `run_dir` needs it, so that its own run does not delete it.

    The note is RUN/references/STEP-HASH.json. A checkpoint that is not in a run has none. Nor has one of a run in which
    this process may not write.
    """
    root = checkpoint.absolute().parent
    if root.name != "checkpoints" or not checkpoint.name.isdecimal():
        return
    user = mirror.named(run_dir.absolute())
    note = root.parent / _REFERENCES / f"{checkpoint.name}-{hashing.digest(user)[:12]}.json"
    with contextlib.suppress(WorkError):
        storage.write_json(mirror.url_of(note) or note, {"step": int(checkpoint.name), "run": user})


def referred(run_dir: Path) -> set[int]:
    """Returns the steps of the checkpoints that other runs need."""
    directory = run_dir / _REFERENCES
    url = mirror.url_of(directory)
    names = mirror.files_at(url) if url is not None else (path.name for path in directory.glob("*.json"))
    return {int(match[1]) for name in names if (match := _NOTE.fullmatch(name))}


def aside(path: Path) -> Path:
    """Returns a free name for a damaged checkpoint that is set aside: STEP.damaged, or STEP.damaged.2 and so on."""
    names = [f"{path.name}.damaged", *(f"{path.name}.damaged.{i}" for i in range(2, 100))]
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def remove(path: Path) -> None:
    """Deletes a checkpoint; it is never visible as incomplete.

    Raises:
        WorkError: it is at a URL, and the storage does not answer, or refuses.
    """
    remote.remove(path)
    doomed = path.with_name(f"{path.name}.deleted")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(root: Path) -> bool:
    """Removes what an interrupted save or deletion left below RUN/checkpoints; returns whether there was anything."""
    found = list(root.iterdir()) if root.is_dir() else []
    leftovers = [path for path in found if not path.name.isdecimal() and not _DAMAGED.fullmatch(path.name)]
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    return bool(leftovers)


def clear(root: Path) -> None:
    """Removes what a failed save left.

    Writes that were in progress at its first error may recreate a part of it shortly afterwards. So this repeats until
    it finds nothing twice, for at most two seconds; the next `store.Writer` removes what remains.
    """
    quiet = 0
    for _ in range(20):
        quiet = 0 if remove_leftovers(root) else quiet + 1
        if quiet == 2:
            return
        time.sleep(0.1)
