"""A plan's memory, time and cost, what it refuses, and the change that it finds if a program does not fit."""

import dataclasses
import math

import pytest

from msm_jax.errors import InputError
from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import advice, compiler, memory, phases, programs, roofline, topology
from msm_jax.planning.memory import Memory
from msm_jax.planning.phases import Planned
from msm_jax.planning.programs import DecodeProgram, Job
from msm_jax.training import start as start_lib
from msm_jax.training.config import InitConfig, OptimizerConfig, PhaseConfig
from msm_jax.training.preference import Preference
from msm_jax.training.program import TrainProgram

MODEL = preset("qwen3-0.6b", num_layers=2, hidden_size=256, vocab_size=2048, num_heads=8, num_kv_heads=4)


def train(mesh=MeshConfig(fsdp=4), **fields):  # noqa: B008 (frozen)
    defaults = {"model": MODEL, "optimizer": OptimizerConfig(1e-4), "steps": 100, "rows": 16, "seq_len": 512}
    return Job(TrainProgram(**{**defaults, **fields}), mesh, "v5e:2x2")


def phase(**fields):
    data = {"seq_len": 512, "sources": {"a": {"path": "a.jsonl"}}, "weights": {"a": 1.0}}
    from msm_jax.foundation import settings

    start = {"mode": "params", "checkpoint": "absent"}
    return settings.build(
        PhaseConfig,
        {"name": "one", "seed": 0, "steps": 10, "batch_rows": 8, "data": data, "optimizer": {"learning_rate": 1e-4},
         "init": start, "mesh": {"fsdp": 4}, **fields},
    )


@pytest.mark.parametrize(
    "job",
    [
        train(),
        train(adapter=LoraConfig(8, 16.0, ("query", "down"), 0.1), beside=(LoraConfig(4, 8.0),), micro_batches=2),
        train(adapter=LoraConfig(8, 16.0), objective=Preference(0.3, 0.1, 1.0, True, "base")),
        Job(DecodeProgram(MODEL, 4, 256, (LoraConfig(4, 8.0),)), MeshConfig(tensor=2)),
    ],
    ids=["full", "lora", "preference", "decode"],
)
def test_a_job_survives_json(job):
    assert programs.from_json(programs.to_json(job)) == job


def usage(need, host=0.0, kept=1.0):
    return {
        "held": {"weights": 2.0, "optimizer": 3.0, "batch": 0.5}, "kept": kept, "capacity": 0.0,
        "log": {"program": need - 6.0, "arguments": 6.0, "cap": 16.0}, "analysis": {"host_temp_size_in_bytes": host},
    }


def test_memory_is_told_apart_by_kind_and_adds_up():
    found = memory.account(usage(12.0))
    kinds = ("weights", "optimizer", "caches", "batch", "padding", "activations", "temporaries")
    assert sum(getattr(found, kind) for kind in kinds) == found.needed == 12.0
    assert (found.padding, found.activations, found.temporaries) == (0.5, 1.0, 5.0)
    assert (found.headroom, found.fits) == (0.25, True)
    assert memory.account(usage(12.0, host=0.75)).activations == 0.25


@pytest.mark.parametrize(("capacity", "fits"), [(8.0, True), (3.0, False), (0.0, True)])
def test_what_goes_to_the_host_must_fit_there(capacity, fits):
    found = memory.account(usage(12.0, host=4.0), capacity)
    assert (found.headroom, found.fits) == (0.25, fits)


def test_what_the_compiler_gave_up_on_does_not_fit_by_what_it_says():
    figures = {**usage(12.0), "log": {"needed": 20.0, "cap": 16.0}, "analysis": None}
    found = memory.account(figures)
    assert (found.headroom, found.fits) == (-0.25, False)


def of(needed):
    return Memory(16.0, needed, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("fits", "change"),
    [
        (lambda job: job.program.model.remat == "full", 'model_overrides.remat = "full"'),
        (lambda job: job.program.micro_batches == 4, "micro_batches = 4"),
        (lambda job: job.mesh.tensor == 4, "mesh.data = 1, mesh.fsdp = 1, mesh.tensor = 4"),
        (lambda job: job.program.model.remat == "offload", 'model_overrides.remat = "offload"'),
        (lambda job: job.program.adapter is not None, "lora = {rank: 64, alpha: 128} on a frozen base"),
        (
            lambda job: job.program.model.remat == "full" and job.program.micro_batches == 4,
            'model_overrides.remat = "full" and micro_batches = 4',
        ),
    ],
)
def test_the_nearest_change_that_fits_is_found(fits, change):
    job = train(model=dataclasses.replace(MODEL, remat="dots"))
    tried = advice.search(job, lambda other, _: of(10.0 if fits(other) else 20.0))
    assert tried[-1].change == change and tried[-1].memory.fits
    assert not any(each.memory.fits for each in tried[:-1])
    assert len({each.job for each in tried}) == len(tried) and job not in {each.job for each in tried}


def test_every_change_is_tried_before_giving_up():
    tried = advice.search(train(), lambda *_: of(20.0))
    last = tried[-1].job
    assert (last.program.model.remat, last.program.adapter.rank) == ("offload", 64)
    assert last.program.rows // last.program.micro_batches == last.mesh.data * last.mesh.fsdp


def test_a_change_that_does_not_divide_is_not_tried():
    """With 8 devices along fsdp and 2 along tensor, an adapter could not split the intermediate size of 24."""
    model = dataclasses.replace(MODEL, intermediate_size=24, remat="offload")
    job = train(model=model, mesh=MeshConfig(fsdp=8, tensor=2), rows=8)
    assert any("lora" in change for change, _ in advice.changes(job))
    tried = advice.search(job, lambda *_: of(20.0))
    assert tried and not any("lora" in each.change for each in tried if each.job.mesh == job.mesh)


def test_figures_are_kept_by_job_sources_and_flags(tmp_path, monkeypatch):
    job, other = train(), train(rows=32)
    before, after = ({"a.py": text} for text in "12")
    with compiler.Compiler(tmp_path, False, before) as one, compiler.Compiler(tmp_path, False, after) as two:
        keys = {one.key(job), one.key(other), two.key(job)}
        (tmp_path / f"{one.key(job)}.json").write_text('{"kept": 7}')
        assert one.figures(job, lambda: pytest.fail("compiles what is kept")) == {"kept": 7}
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        assert len({*keys, one.key(job)}) == 4


def test_changes_keep_to_what_the_model_and_the_batch_divide():
    for _, job in advice.changes(train(mesh=MeshConfig(data=2, fsdp=2), rows=12)):
        phases.check_mesh("one", job.program, job.mesh)


def planned(**fields):
    config = phase(**fields)
    return Planned(config, start_lib.decide(config, start_lib.Parent("base", MODEL, ())))


def test_phases_in_a_chain_hand_their_adapters_on():
    first = LoraConfig(8, 16.0)
    lora = {"rank": 8, "alpha": 16.0}
    one = dataclasses.replace(planned(lora=lora), runs=3)
    assert (one.program.adapter, one.program.beside, one.steps, one.tokens) == (first, (), 30, 3 * 10 * 8 * 512)
    written = one.start.checkpoint("one", 10)
    for how, beside in (("continue", ()), ("stack", (first,)), ("merge", ())):
        config = phase(lora=lora, adapter=how)
        two = Planned(config, start_lib.decide(config, written))
        assert (two.program.adapter, two.program.beside) == (first, beside)
    assert [layer.merged for layer in two.start.adapters] == [True, False]
    config = phase(adapter="merge")
    whole = Planned(config, start_lib.decide(config, two.start.checkpoint("two", 10)))
    assert whole.program.adapter is None and whole.start.adapters == ()


def test_a_phase_may_change_how_the_model_is_run_and_nothing_else():
    changes = {"remat": "offload", "attention": "reference"}
    assert planned(model_overrides=changes).program.model == dataclasses.replace(MODEL, **changes)
    with pytest.raises(InputError, match=r"model_overrides.hidden_size .* only how the model is run"):
        phase(model_overrides={"hidden_size": 8})


def test_a_checkpoint_that_does_not_exist_needs_its_model_named():
    with pytest.raises(InputError, match=r"--model, one of mini-0\.3m"):
        phases.parent_of(phase(), "")
    assert phases.parent_of(phase(), "qwen3-8b").model == preset("qwen3-8b")


@pytest.mark.parametrize(
    ("fields", "devices", "message"),
    [
        ({}, 8, "has 4 devices, but v5e:2x4 has 8; the nearest mesh that fits: .*fsdp=8"),
        ({"mesh": {"tensor": 3}, "batch_rows": 6}, 3, "does not divide .* the nearest mesh: data=3"),
        ({"mesh": {"fsdp": 8}, "micro_batches": 2, "batch_rows": 16}, 8, None),
        ({"mesh": {"tensor": 8}}, 8, "tensor of 8 does not divide kv_heads = 4.*the nearest mesh: .*fsdp=2, tensor=4"),
        ({"data": {"seq_len": 65536, "sources": {"a": {"path": "a"}}, "weights": {"a": 1.0}}}, 4, "max_position_embed"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(fields, devices, message):
    def check():
        found = planned(**fields)
        phases.check(found.config, found.program, devices, "v5e:2x4")

    if message is None:
        check()
        return
    with pytest.raises(InputError, match=message):
        check()


def test_meshes_divide_what_they_split():
    found = phases.meshes(16, MODEL, 8)
    assert {mesh.size for mesh in found} == {16} and len(found) == len(set(found))
    for mesh in found:
        assert 8 % (mesh.data * mesh.fsdp) == 0 and 4 % mesh.tensor == 0 and MODEL.hidden_size % mesh.fsdp == 0


@pytest.mark.parametrize(
    ("name", "places", "links"),
    [("v5e:8x8", [8, 8, 1], 2), ("v5e:16x16", [16, 16, 1], 4), ("v5p:2x4x4", [2, 4, 4], 3), ("v5p:4x4x4", [4, 4, 4], 6),
     ("v5e:16x16", [16, 1, 1], 2), ("v5e:16x16", [4, 1, 1], 1), ("v4:4x4x4", [1, 1, 2], 1)],
)
def test_links_into_the_worst_placed_chip(name, places, links):
    found = topology.parse(name)
    assert roofline.inflow(found.chip, found, places) == links * found.chip.link_bandwidth


def test_the_bound_is_that_of_the_scarcest_resource():
    job = train(mesh=MeshConfig(fsdp=64), rows=64)
    found = topology.parse("v5e:8x8")
    received = 3e9
    figures = {
        "device_kind": found.chip.kind,
        "flops": {"products": 64 * 197e12, "kernels": 0.0}, "held": {"weights": 0.0, "optimizer": 0.0},
        "collectives": [{"axes": "fsdp", "received": received}, {"axes": "data×fsdp", "received": 1e9}],
        "network": {"fsdp": [8, 8, 1], "data×fsdp": [8, 8, 1]},
    }
    bound = roofline.bound(job.program, job.mesh, found.chip, found, figures)
    assert (bound.arithmetic, bound.links) == (1.0, {"fsdp": received / 100e9, "data×fsdp": 1e9 / 100e9})
    assert (bound.seconds, bound.binds) == (1.0, "arithmetic")
    assert bound.tokens_per_second == 64 * 512
    assert math.isclose(bound.mfu, roofline.model_flops(job.program) / (64 * 197e12))
    slow = roofline.bound(
        job.program, job.mesh, found.chip, found,
        {**figures, "collectives": [{"axes": "fsdp", "received": 400e9}]},
    )
    assert (slow.seconds, slow.binds) == (4.0, "links over fsdp")


def test_an_adapter_asks_for_less_than_all_weights():
    full, adapted = train(), train(adapter=LoraConfig(8, 16.0))
    assert 0.6 < roofline.model_flops(adapted.program) / roofline.model_flops(full.program) < 0.85
    assert InitConfig().mode == "scratch"
