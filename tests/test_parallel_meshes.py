"""A model has the same loss, gradients, greedy tokens and checkpoint bits on any mesh, in one process and in two."""

import jax
import numpy as np
import parallel_meshes as cases
import pytest
import several_hosts

from msm_jax.checkpoints import store
from msm_jax.errors import InputError
from msm_jax.parallel import distributed
from msm_jax.parallel.mesh import MeshConfig, across_slices, make_mesh

SHAPES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]


@pytest.fixture(scope="module")
def one_device():
    mesh = make_mesh(MeshConfig())
    params = cases.parameters(mesh)
    results = cases.compute(params, mesh)
    return results, cases.margins(params, results["replies"])


def assert_agrees(got, one_device):
    expected, margins = one_device
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got["gradients"]), jax.tree.leaves(expected["gradients"]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
    for row in range(cases.PROMPTS):
        differs = np.flatnonzero(got["replies"][row] != expected["replies"][row])
        assert differs.size == 0 or margins[row, differs[0]] < 1e-4


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_mesh_computes_what_one_device_does(shape, one_device):
    mesh = make_mesh(MeshConfig(*shape))
    assert_agrees(cases.compute(cases.parameters(mesh), mesh), one_device)


def test_replies_are_not_all_the_same(one_device):
    assert len(np.unique(one_device[0]["replies"])) > 5


def assert_same_bits(checkpoint, mesh, expected):
    got = store.load(checkpoint, cases.target(mesh))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert a.sharding.mesh.shape == mesh.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("saved_on", SHAPES)
def test_a_checkpoint_of_any_mesh_restores_on_any_other(saved_on, tmp_path):
    tree = cases.state_on(make_mesh(MeshConfig(*saved_on)))
    checkpoint = cases.save(tree, tmp_path)
    for shape in SHAPES:
        assert_same_bits(checkpoint, make_mesh(MeshConfig(*shape)), tree)


def test_two_processes_compute_and_restore_the_same(one_device, tmp_path):
    tree = cases.state_on(make_mesh(MeshConfig(1, 8, 1)))
    checkpoint = cases.save(tree, tmp_path / "before")
    out = tmp_path / "after"
    status, errors = several_hosts.finish(
        several_hosts.start([cases.__file__, "2x2x2", str(checkpoint), str(out)], tmp_path)
    )
    assert status == [0, 0], errors
    results = np.load(out / "results.npz")
    gradients = [results[f"gradient{i}"] for i in range(len(jax.tree.leaves(tree["params"])))]
    assert_agrees({"loss": results["loss"], "gradients": gradients, "replies": results["replies"]}, one_device)
    for shape in SHAPES:
        assert_same_bits(store.latest(out), make_mesh(MeshConfig(*shape)), tree)


@pytest.mark.parametrize(
    ("shape", "slices", "within", "across"),
    [
        ((4, 8, 2), 2, (2, 8, 2), (2, 1, 1)),
        ((2, 8, 1), 4, (1, 4, 1), (2, 2, 1)),
        ((1, 8, 2), 4, (1, 2, 2), (1, 4, 1)),
    ],
)
def test_slices_are_spread_over_data_and_then_fsdp(shape, slices, within, across):
    assert across_slices(MeshConfig(*shape), slices) == (MeshConfig(*within), MeshConfig(*across))


def test_slices_that_would_cut_the_tensor_axis_are_refused():
    with pytest.raises(InputError, match=r"2 slices.*set mesh.data to a multiple of 2"):
        across_slices(MeshConfig(1, 3, 4), 2)


def test_a_coordinator_without_the_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES=: must be a number beside JAX_COORDINATOR_ADDRESS"):
        distributed.processes()
