"""Attention backends equal the reference over packed rows, forward and backward, on one device and on meshes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from msm_jax.models import attention, kernels, transformer
from msm_jax.models.config import ModelConfig
from msm_jax.models.kernels import Packed
from msm_jax.parallel import mesh as meshes
from msm_jax.parallel.mesh import MeshConfig, make_mesh

LENGTH = 256
# Documents of a row: several, one, and some padding; in tiles of 128 their borders lie inside and between tiles.
SEGMENTS = np.array([[1] * 100 + [2] * 28 + [3] * 128, [1] * 3 + [2] * 200 + [0] * (LENGTH - 203)], np.int32)


def operands(heads, groups, size, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    q, weights = (jax.random.normal(k, (2, LENGTH, heads, size), dtype) for k in keys[:2])
    k, v = (jax.random.normal(k, (2, groups, LENGTH, size), dtype) for k in keys[2:])
    return (q, k, v), weights


def with_gradients(run, arrays, weights):
    def loss(q, k, v):
        out = run(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return [np.asarray(x, np.float32) for x in (out, *grads)]


def splash(q, k, v):
    return attention.attend(q, k, v, Packed(jnp.asarray(SEGMENTS), "splash", interpret=True))


def cudnn_on_cpu(q, k, v):
    return kernels.cudnn(q, k, v, jnp.asarray(SEGMENTS), implementation="xla")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "_MAX_BLOCK", 128)


@pytest.mark.parametrize("run", [splash, cudnn_on_cpu])
@pytest.mark.parametrize(("heads", "groups", "size"), [(2, 2, 128), (4, 2, 64)])
def test_a_backend_is_the_reference_forward_and_backward(run, heads, groups, size):
    arrays, weights = operands(heads, groups, size)
    mask = attention.segment_mask(jnp.asarray(SEGMENTS))
    expected = with_gradients(lambda q, k, v: attention.attend(q, k, v, mask), arrays, weights)
    for want, got in zip(expected, with_gradients(run, arrays, weights), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_each_device_attends_to_its_own_rows_and_heads():
    arrays, weights = operands(4, 2, 64)
    expected = with_gradients(splash, arrays, weights)
    with jax.set_mesh(make_mesh(MeshConfig(1, 2, 2))):
        for want, got in zip(expected, with_gradients(splash, arrays, weights), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("remat", ["none", "dots", "full", "offload"])
def test_a_model_is_the_same_with_splash_whatever_is_recomputed(remat):
    config = ModelConfig(
        vocab_size=32, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=16,
        attention="reference",
    )
    params = jax.jit(lambda key: transformer.init_params(config, key))(jax.random.key(0))
    segments = jnp.asarray(SEGMENTS[:1, :128])
    tokens = jax.random.randint(jax.random.key(1), segments.shape, 0, config.vocab_size)

    def loss(params, config):
        hidden = transformer.apply(params, config, tokens, jnp.zeros_like(tokens), segments)
        return jnp.sum(jnp.sin(hidden))

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected = grad(params, config)
    got = grad(params, dataclasses.replace(config, attention="splash", remat=remat))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()) + 1e-6)


def config_for(**fields):
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_layers": 1, "num_kv_heads": 1, "intermediate_size": 16}
    return ModelConfig(**{**sizes, "num_heads": 2, "head_dim": 128, "compute_dtype": "bfloat16", **fields})


@pytest.mark.parametrize(
    ("platform", "fields", "length", "backend"),
    [
        ("tpu", {}, 256, "splash"),
        ("gpu", {}, 256, "cudnn"),
        ("cpu", {}, 256, None),
        ("tpu", {"attention": "reference"}, 256, None),
        ("tpu", {}, 200, None),
        ("tpu", {"attention": "cudnn"}, 256, None),
        ("gpu", {"attention": "splash"}, 256, None),
        ("gpu", {"compute_dtype": "float32"}, 256, None),
        ("gpu", {"head_dim": 132}, 256, None),
        ("gpu", {}, 255, None),
    ],
)
def test_the_device_chooses_and_shapes_it_cannot_take_fall_back_once(
    platform, fields, length, backend, monkeypatch, caplog
):
    monkeypatch.setattr(meshes, "platform", lambda: platform)
    monkeypatch.setattr(kernels, "_compute_capability", lambda: (9, 0))
    attention._fall_back.cache_clear()
    config, segments = config_for(**fields), jnp.ones((1, length), jnp.int32)
    seen = [attention.visible(segments, config) for _ in range(2)]
    assert [getattr(one, "backend", None) for one in seen] == [backend] * 2
    fell_back = backend is None and platform != "cpu" and config.attention != "reference"
    assert len(caplog.records) == fell_back
    assert all("the reference runs instead" in record.message for record in caplog.records)


def test_old_and_other_gpus_take_the_reference(monkeypatch):
    for capability in ((7, 5), ()):
        monkeypatch.setattr(kernels, "_compute_capability", lambda capability=capability: capability)
        assert "8.0" in kernels.refusal("cudnn", "gpu", 256, 128, "bfloat16")
    monkeypatch.setattr(kernels, "_compute_capability", lambda: (8, 0))
    assert kernels.refusal("cudnn", "gpu", 256, 128, "bfloat16") is None


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("dots", 1), ("full", 2)])
def test_cudnn_runs_forward_once_where_its_results_are_kept(remat, times, monkeypatch):
    # JAX looks for cuDNN when it traces; what is traced is not run.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(meshes, "platform", lambda: "gpu")
    monkeypatch.setattr(kernels, "_compute_capability", lambda: (9, 0))
    config = config_for(num_layers=2, remat=remat)
    tokens = jax.ShapeDtypeStruct((2, 256), jnp.int32)

    def loss(params, *rows):
        return jnp.sum(transformer.apply(params, config, *rows).astype(jnp.float32))

    traced = str(jax.make_jaxpr(jax.grad(loss))(transformer.abstract_params(config), tokens, tokens, tokens))
    assert traced.count(f"{kernels.CUDNN_FORWARD}[") == times


@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA GPU here, and cuDNN runs on no other device")
def test_on_a_gpu_cudnn_is_the_reference():
    # Without what makes the other tests' JAX a CPU of eight devices.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_")) and k != "NPROC"}
    script = Path(__file__).with_name("gpu_attention.py")
    environment["PYTHONPATH"] = os.pathsep.join(path for path in (str(script.parent.parent), *sys.path) if path)
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # bfloat16 has eight bits; a mask that is off by one document is off by more than a tenth.
    assert max(distance for one in found["alone"].values() for distance in one.values()) < 0.01, found
    assert max(found["in a model"].values()) < 0.02, found
