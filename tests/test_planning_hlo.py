"""Collectives are read from a program's text: how often each runs, how much it moves, and over which mesh axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.planning import hlo

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def test_a_collective_in_nested_loops_counts_once_per_iteration():
    mesh = make_mesh(MeshConfig(2, 2, 2))

    def f(x):
        def inner(y, _):
            return jax.lax.psum(jnp.sin(y), "fsdp") / 2, None

        def outer(y, _):
            y, _ = jax.lax.scan(inner, y, None, length=3)
            return jax.lax.psum(jnp.cos(y), ("data", "tensor")) / 4, None

        return jax.lax.scan(outer, x, None, length=5)[0]

    run = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False))
    found = hlo.collectives(run.lower(jnp.ones((16, 8))).compile().as_text())
    assert {(hlo.axes_of(one.groups, MESH), one.trips) for one in found} == {(("fsdp",), 15), (("data", "tensor"), 5)}
    assert {(one.kind, one.bytes, one.shape) for one in found} == {("all-reduce", 16 * 8 * 4, "f32[16,8]")}
    assert {one.received for one in found} == {15 * 512 * 2 * 1 / 2, 5 * 512 * 2 * 3 / 4}


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
def test_a_gather_has_the_size_of_what_it_makes(axis):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    split, whole = NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, PartitionSpec())
    gather = jax.jit(lambda x: x * 2, in_shardings=split, out_shardings=whole)
    (one,) = hlo.collectives(gather.lower(jnp.ones((64, 3))).compile().as_text())
    assert (one.kind, one.bytes, one.trips, one.size) == ("all-gather", 64 * 3 * 4, 1, 2)
    assert hlo.axes_of(one.groups, MESH) == (axis,)
    assert one.received == 64 * 3 * 4 / 2


TEMPLATE = """HloModule m

%condition (p: (s32[], bf16[8,4])) -> pred[] {{
  %p = (s32[], bf16[8,4]{{1,0}}) parameter(0)
  %bound = s32[]{{:T(128)}} constant(7)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}}

%fused_start (q: bf16[2,4]) -> bf16[8,4] {{
  %q = bf16[2,4]{{1,0}} parameter(0)
  ROOT %gather.1 = bf16[8,4]{{1,0:T(8,128)(2,1)}} all-gather(%q), channel_id=3, {groups}, dimensions={{0}}
}}

%fused_done (q: bf16[2,4]) -> bf16[8,4] {{
  %q.1 = bf16[2,4]{{1,0}} parameter(0)
  ROOT %gather.2 = bf16[8,4]{{1,0:T(8,128)(2,1)S(1)}} all-gather(%q.1), channel_id=3, {groups}, dimensions={{0}}
}}

%body (p.1: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {{
  %p.1 = (s32[], bf16[8,4]{{1,0}}) parameter(0)
  %part = bf16[2,4]{{1,0}} custom-call(%p.1), custom_call_target="x"
  %begin = bf16[8,4]{{1,0}} fusion(%part), kind=kCustom, calls=%fused_start
  %end = bf16[8,4]{{1,0}} fusion(%part), kind=kCustom, calls=%fused_done
  %j = s32[] get-tuple-element(%p.1), index=0
  ROOT %t = (s32[], bf16[8,4]{{1,0}}) tuple(%j, %end)
}}

ENTRY %main (a: bf16[8,4]) -> bf16[8,4] {{
  %a = bf16[8,4]{{1,0}} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[8,4]{{1,0}}) tuple(%zero, %a)
  %loop = (s32[], bf16[8,4]{{1,0}}) while(%start), condition=%condition, body=%body
  ROOT %out = bf16[8,4]{{1,0}} get-tuple-element(%loop), index=1
}}
"""


@pytest.mark.parametrize(
    "groups",
    [
        "replica_groups={{0,2,4,6},{1,3,5,7}}",
        "replica_groups=[2,4]<=[4,2]T(1,0)",
        "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}",
        "replica_groups=mesh['x'=8] {'x':(1)4}",
        "replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'c'}",
        "replica_groups=mesh['a'=2,'b'=4], device_ids=(0,2,4,6,1,3,5,7) {'b'}",
    ],
)
def test_a_channel_that_stands_in_two_computations_counts_once_in_any_notation(groups):
    (one,) = hlo.collectives(TEMPLATE.format(groups=groups))
    assert (one.kind, one.bytes, one.trips, one.shape) == ("all-gather", 64, 7, "bf16[8,4]")
    assert one.groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert hlo.axes_of(one.groups, MESH) == ("data", "fsdp")


def test_groups_of_one_device_move_nothing():
    assert hlo.collectives(TEMPLATE.format(groups="replica_groups={{0},{1}}")) == []


def test_a_permutation_groups_the_devices_that_it_links():
    text = TEMPLATE.format(groups="source_target_pairs={{0,1},{1,0},{4,5},{5,4}}")
    (one,) = hlo.collectives(text.replace("all-gather", "collective-permute"))
    assert one.groups == ((0, 1), (4, 5)) and hlo.axes_of(one.groups, MESH) == ("tensor",)
    assert one.received == 7 * 64


def test_every_axis_of_a_mesh_is_told_from_the_others():
    ids = np.arange(8).reshape(2, 2, 2)
    for i, name in enumerate(MESH):
        groups = np.moveaxis(ids, i, -1).reshape(-1, 2).tolist()
        assert hlo.axes_of(groups, MESH) == (name,)
