"""Checkpoints are restored bit for bit on any mesh, survive failures, and are refused clearly if damaged."""

import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from msm_jax.checkpoints import retention, store
from msm_jax.errors import InputError, WorkError

ASSETS = {"tokenizer.model": bytes(range(256)) * 3, "chat_template.jinja": "é {{x}}".encode(), "empty": b""}
INFO = {"phase": "msm", "nested": [1, {"a": None, "b": 0.1}]}


def make_mesh(*shape):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)


def make_tree(mesh, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "embed": jax.random.normal(keys[0], (16, 8)),
        "layers": {
            "w": jax.random.normal(keys[1], (2, 8, 4)).astype(jnp.bfloat16),
            "q_norm": jax.random.normal(keys[2], (8,)),
        },
    }
    opt_state = optax.adamw(1e-3).init(params)
    tree = {"params": params, "opt_state": opt_state, "step": jnp.int32(seed)}
    specs = {2: P("fsdp", "tensor"), 3: P(None, "fsdp", "tensor"), 1: P(), 0: P()}
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, specs[x.ndim])), tree)


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert a.sharding == b.sharding
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save(run, tree, step=1, keep=2):
    writer = store.Writer(run, keep)
    writer.save(step, tree, INFO, ASSETS)
    writer.wait()
    return store.latest(run)


@pytest.mark.parametrize("target", [(1, 1, 1), (8, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_bits_survive_a_change_of_mesh(tmp_path, target):
    path = save(tmp_path, make_tree(make_mesh(2, 2, 2), seed=3))
    want = make_tree(make_mesh(*target), seed=3)
    assert_same(store.load(path, abstract(want)), want)


def test_assets_and_info_come_back_and_params_load_alone(tmp_path):
    tree = make_tree(make_mesh(1, 1, 1))
    path = save(tmp_path, tree)
    for name in (path, tmp_path, str(tmp_path), tmp_path / "checkpoints"):
        assert store.read_assets(name) == ASSETS
        assert store.read_info(name) == INFO
    only = {"params": tree["params"]}
    assert_same(store.load(tmp_path, abstract(only)), only)


def test_keeps_the_newest_and_skips_a_step_that_is_there(tmp_path):
    tree = make_tree(make_mesh(1, 1, 1))
    writer = store.Writer(tmp_path, keep=2)
    for step in (2, 10, 9000):
        writer.save(step, tree, INFO, ASSETS)
        # Nothing is deleted before its successor is committed.
        assert len(store.all_steps(tmp_path)) >= min(2, (2, 10, 9000).index(step))
    writer.wait()
    assert store.all_steps(tmp_path) == [10, 9000]
    before = os.stat(tmp_path / "checkpoints" / "9000").st_mtime_ns
    writer.save(9000, tree, {}, {})
    writer.wait()
    assert os.stat(tmp_path / "checkpoints" / "9000").st_mtime_ns == before
    assert store.latest(tmp_path).name == "9000"


def test_a_background_save_does_not_see_later_donated_updates(tmp_path):
    state = {"params": {"w": jnp.arange(2_000_000, dtype=jnp.float32)}}
    want = np.asarray(state["params"]["w"]).copy()
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 3 + 1, tree), donate_argnums=0)
    writer = store.Writer(tmp_path)
    shapes = abstract(state)
    writer.save(1, state, {}, {})
    for _ in range(20):
        state = update(state)
    writer.wait()
    np.testing.assert_array_equal(store.load(tmp_path, shapes)["params"]["w"], want)


def test_small_saves_are_quick(tmp_path):
    tree = make_tree(make_mesh(1, 1, 1))
    writer = store.Writer(tmp_path, keep=1)
    seconds = []
    for step in range(4):
        start = time.perf_counter()
        writer.save(step, tree, INFO, ASSETS)
        writer.wait()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # about 0.1 on an idle core


def test_shapes_and_names_that_differ_are_named(tmp_path):
    tree = make_tree(make_mesh(1, 1, 1))
    save(tmp_path, tree)
    wrong = abstract({"params": tree["params"]})
    wrong["params"]["layers"]["w"] = jax.ShapeDtypeStruct((2, 8, 5), jnp.bfloat16)
    with pytest.raises(
        InputError, match=r"params\.layers\.w is \(2, 8, 4\) in the checkpoint and \(2, 8, 5\)"
    ):
        store.load(tmp_path, wrong)
    wrong = abstract({"params": tree["params"]})
    del wrong["params"]["embed"]
    with pytest.raises(InputError, match=r"params\.embed is \(16, 8\) in the checkpoint and missing"):
        store.load(tmp_path, wrong)
    with pytest.raises(InputError, match='holds no "ema"'):
        store.load(tmp_path, {"ema": {}})


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        store.load(tmp_path / "absent", {})
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "run"):
        with pytest.raises(InputError, match="neither a checkpoint"):
            store.read_info(path)
    assert store.latest(tmp_path / "run") is None
    assert store.all_steps(tmp_path / "absent") == []


def test_damage_is_reported_as_damage(tmp_path):
    mesh = make_mesh(1, 1, 1)
    tree = {
        "params": {
            "w": jax.device_put(jax.random.normal(jax.random.key(0), (300, 300)), mesh.devices[0, 0, 0])
        }
    }
    truncated, headless, rotten = (save(tmp_path / name, tree) for name in ("a", "b", "c"))
    for file in (truncated / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 100_000:
            os.truncate(file, 1000)
    (headless / "params" / "_METADATA").unlink()
    (rotten / "_CHECKPOINT_METADATA").write_text("{")
    for read in (
        lambda: store.load(truncated, abstract(tree)),
        lambda: store.load(headless, abstract(tree)),
        lambda: store.read_info(rotten),
    ):
        with pytest.raises(InputError, match="damaged") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path):
    mesh = make_mesh(1, 1, 1)
    tree = {
        "params": {
            "w": jax.device_put(jax.random.normal(jax.random.key(0), (600, 600)), mesh.devices[0, 0, 0])
        }
    }
    save(tmp_path, tree, step=1)
    writer = store.Writer(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        writer.save(2, tree, INFO, ASSETS)
        with pytest.raises(
            WorkError, match=r"checkpoints/2 failed: file too large; .*checkpoints/1$"
        ) as caught:
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert_same(store.load(tmp_path, abstract(tree)), tree)
    writer.save(2, tree, INFO, ASSETS)
    writer.wait()
    assert store.all_steps(tmp_path) == [1, 2]


def test_writes_that_outlast_a_failed_save_leave_nothing(tmp_path, monkeypatch):
    """TensorStore's threads go on for a moment after the first error, and make directories anew."""
    root, look = tmp_path / "checkpoints", retention.remove_leftovers

    def write():
        for i in range(40):
            (root / "2.late" / str(i)).mkdir(parents=True, exist_ok=True)
            time.sleep(0.01)

    late = threading.Thread(target=write)

    def looks(where):
        if not late.ident:
            late.start()
        return look(where)

    writer = store.Writer(tmp_path)
    monkeypatch.setattr(retention, "remove_leftovers", looks)
    error = writer._failed(2, OSError("disk full"))
    assert "disk full" in str(error)
    late.join()
    assert list(root.iterdir()) == []


def test_a_kill_during_a_save_shows_no_half_checkpoint(tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys, threading, time
        import jax
        from msm_jax.checkpoints import store
        tree = {"params": {"w": jax.random.normal(jax.random.key(0), (1500, 1500))}}
        writer = store.Writer(sys.argv[1], keep=1)
        writer.save(1, tree, {}, {})
        writer.wait()
        writer.save(2, tree, {}, {})
        while not any(not name.isdecimal() for name in os.listdir(sys.argv[1] + "/checkpoints")):
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == -9
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert store.all_steps(tmp_path) == [1]
    tree = {"params": {"w": jax.random.normal(jax.random.key(0), (1500, 1500))}}
    assert_same(store.load(tmp_path, abstract(tree)), tree)
    store.Writer(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
