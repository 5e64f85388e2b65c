"""Damage to any byte of a checkpoint is found, the last good one stays, and a save that fails leaves nothing."""

import hashlib
import os
import random
import re
import resource
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msm_jax.checkpoints import integrity, retention, store
from msm_jax.errors import InputError, WorkError

FLIPS = 50
OFFSETS = 20
TREE = {"params": {"w": np.arange(2000, dtype=np.float32)}, "opt_state": {"m": np.ones(300)}, "step": np.int32(7)}


def arrays(seed: int) -> dict[str, object]:
    """Returns a small tree of a training run, different for each seed."""
    return jax.tree.map(lambda x: jnp.asarray(x) + seed, TREE)


def target() -> dict[str, object]:
    """Returns what `store.load` needs to load the tree."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), arrays(0))


def save(writer: store.Writer, step: int) -> None:
    """Saves a checkpoint and waits until it is committed."""
    writer.save(step, arrays(step), {"step": step}, {"tokenizer.model": b"pieces" * 50})
    writer.wait()


def make_run(run: Path, *steps: int, keep: int = 9) -> store.Writer:
    """Saves checkpoints of some steps, each with other arrays."""
    writer = store.Writer(run, keep)
    for step in steps:
        save(writer, step)
    return writer


def check_loads(path: Path, seed: int) -> None:
    """Checks that a checkpoint holds the arrays that were saved."""
    for got, want in zip(*map(jax.tree.leaves, (store.load(path, target()), arrays(seed))), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def all_files(path: Path) -> list[Path]:
    """Returns all files of a checkpoint."""
    return sorted(file for file in path.rglob("*") if file.is_file())


def flip(file: Path, offset: int) -> None:
    """Changes one bit of a file."""
    content = bytearray(file.read_bytes())
    content[offset] ^= 1 << offset % 8
    file.write_bytes(content)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 1, 2 and 3, which tests copy."""
    run = tmp_path_factory.mktemp("made")
    make_run(run, 1, 2, 3)
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of its own with checkpoints of the steps 1, 2 and 3."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_the_manifest_is_one_that_sha256sum_reads(made: Path) -> None:
    path = store.latest(made)
    assert path is not None
    lines = (path / integrity.NAME).read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {
        file.relative_to(path).as_posix() for file in all_files(path) if file.name != integrity.NAME
    }
    for line in lines:
        assert hashlib.sha256((path / line.split("  ")[1]).read_bytes()).hexdigest() == line.split("  ")[0]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", integrity.NAME], cwd=path, check=True)


def test_a_flipped_bit_is_found_wherever_it_is(run: Path) -> None:
    path, rng = run / "checkpoints" / "3", random.Random(0)
    files = [file for file in all_files(path) if file.stat().st_size]
    chosen = [*files, *rng.choices(files, [file.stat().st_size for file in files], k=FLIPS)]
    for file in chosen:
        before, offset = file.read_bytes(), rng.randrange(file.stat().st_size)
        flip(file, offset)
        wrong, name = store._fault(path), file.relative_to(path).as_posix()
        assert name in wrong or (wrong and name == integrity.NAME), (name, offset, wrong)
        file.write_bytes(before)
    assert store._fault(path) == ""


def test_a_file_that_is_cut_off_or_missing_is_found_wherever_it_ends(run: Path) -> None:
    path, rng = run / "checkpoints" / "3", random.Random(1)
    files = [file for file in all_files(path) if file.stat().st_size]
    chosen = [*files, *rng.choices(files, [file.stat().st_size for file in files], k=FLIPS)]
    lines = (path / integrity.NAME).read_bytes().splitlines(keepends=True)
    ends = [(path / integrity.NAME, len(b"".join(lines[:n]))) for n in range(len(lines))]
    for file, end in [*((file, rng.randrange(file.stat().st_size)) for file in chosen), *ends]:
        before = file.read_bytes()
        os.truncate(file, end)
        assert store._fault(path), (file, end)
        file.write_bytes(before)
    for file in all_files(path):
        before = file.read_bytes()
        file.unlink()
        assert "missing" in store._fault(path), file
        file.write_bytes(before)
    assert store._fault(path) == ""


def test_hidden_files_of_a_file_system_are_no_damage(run: Path) -> None:
    (run / "checkpoints" / "3" / "params" / ".nfs0001").touch()
    check_loads(run / "checkpoints" / "3", 3)


@pytest.mark.parametrize("name", ["params/manifest.ocdbt", "_CHECKPOINT_METADATA", integrity.NAME])
def test_a_damaged_checkpoint_that_is_asked_for_is_refused_in_one_line_and_stays(run: Path, name: str) -> None:
    path = run / "checkpoints" / "3"
    os.truncate(path / name, 100)
    words = rf"^{path}: the checkpoint is damaged \({re.escape(name)} .*use another one, such as .*/checkpoints/2, or"
    for asked in (path, run):
        with pytest.raises(InputError, match=words) as caught:
            store.load(asked, target())
        assert "\n" not in str(caught.value)
    assert store.all_steps(run) == [1, 2, 3]


def test_what_is_not_read_is_not_checked(run: Path) -> None:
    """The parameters of a checkpoint are of use without the state of its optimizer."""
    path = run / "checkpoints" / "3"
    flip(path / "opt_state" / "manifest.ocdbt", 9)
    store.load(path, {"params": target()["params"]})
    with pytest.raises(InputError, match=r"opt_state/manifest\.ocdbt is not as it was written"):
        store.load(path, target())


def test_damaged_checkpoints_are_set_aside_by_name_until_one_is_good(run: Path) -> None:
    root = run / "checkpoints"
    (root / "3" / integrity.NAME).unlink()
    flip(root / "2" / "step" / "_METADATA", 1)
    first, second = store.set_aside_damaged(run)
    assert first == f"{root / '3'} is damaged ({integrity.NAME} is missing); set aside as 3.damaged"
    assert second == f"{root / '2'} is damaged (step/_METADATA is not as it was written); set aside as 2.damaged"
    assert store.set_aside_damaged(run) == []
    assert store.latest(run) == root / "1"
    check_loads(run, 1)
    # They stay when the run goes on, and so does another one of the same step.
    make_run(run, 2, keep=1)
    flip(root / "2" / "step" / "_METADATA", 1)
    assert "set aside as 2.damaged.2" in store.set_aside_damaged(run)[0]
    store.Writer(run)
    assert sorted(path.name for path in root.iterdir()) == ["2.damaged", "2.damaged.2", "3.damaged"]
    assert store.latest(run) is None and store.set_aside_damaged(run) == []


def test_checkpoints_of_before_there_were_manifests_load(run: Path) -> None:
    path = run / "checkpoints" / "3"
    (path / integrity.NAME).unlink()
    metadata = path / "_CHECKPOINT_METADATA"
    old = metadata.read_text().replace(f', "manifest": "{integrity.NAME}"', "")
    assert old != metadata.read_text()
    metadata.write_text(old)
    check_loads(path, 3)
    assert store.read_info(path) == {"step": 3}
    assert store.set_aside_damaged(run) == []


def test_the_last_good_checkpoint_is_never_deleted(run: Path) -> None:
    for step in (2, 3):
        flip(run / "checkpoints" / str(step) / "params" / "_METADATA", 3)
    store.prune(run, keep=1)
    assert store.all_steps(run) == [1, 2, 3]
    make_run(run, 4, keep=1)
    assert store.all_steps(run) == [4]


def test_a_checkpoint_that_another_run_needs_is_never_deleted(run: Path, tmp_path: Path) -> None:
    retention.refer(run / "checkpoints" / "1", tmp_path / "other")
    retention.refer(run / "checkpoints" / "1", tmp_path / "third")
    retention.refer(tmp_path / "weights", tmp_path / "other")
    make_run(run, 4, 5, keep=1)
    assert store.all_steps(run) == [1, 5]
    for note in (run / "references").iterdir():
        note.unlink()
    make_run(run, 6, keep=1)
    assert store.all_steps(run) == [6]


def test_a_disk_that_is_full_at_any_moment_of_a_save_leaves_what_was_there(tmp_path: Path) -> None:
    writer = make_run(tmp_path, 1)
    largest = max(file.stat().st_size for file in all_files(tmp_path / "checkpoints" / "1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in np.linspace(1, 0.9 * largest, OFFSETS, dtype=int).tolist():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            # The save may fail before it is in the background.
            with pytest.raises(WorkError, match=r"checkpoints/2 failed: file too large; .*checkpoints/1$"):
                save(writer, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"], limit
    check_loads(tmp_path, 1)
    make_run(tmp_path, 2)
    check_loads(tmp_path, 2)


def test_a_checkpoint_without_its_manifest_has_no_name_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    seal = integrity.seal

    def look(directory: Path) -> None:
        seen.append((directory.name, store.all_steps(tmp_path)))
        seal(directory)
        seen.append((directory.name, store.all_steps(tmp_path)))

    monkeypatch.setattr(integrity, "seal", look)
    make_run(tmp_path, 5)
    assert seen == [("5.saving", [])] * 2
    assert store.all_steps(tmp_path) == [5]
