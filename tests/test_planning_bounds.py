"""Bounds without a compiler: those of the roofline, as far as no compiler is needed."""

import dataclasses

import jax
import pytest

from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.parallel.mesh import MeshConfig, make_mesh
from msm_jax.planning import bounds, chips, programs, roofline
from msm_jax.planning.programs import DecodeProgram
from msm_jax.training.config import OptimizerConfig
from msm_jax.training.program import TrainProgram

MODEL = preset("qwen3-0.6b", num_layers=2, hidden_size=256, vocab_size=2048, num_heads=8, num_kv_heads=4)
TRAIN = TrainProgram(MODEL, OptimizerConfig(1e-4), 100, 16, 512)
LORA = TrainProgram(MODEL, OptimizerConfig(1e-4), 100, 16, 512, adapter=LoraConfig(8, 16.0))
DECODE = DecodeProgram(MODEL, 4, 200, (LoraConfig(4, 8.0),))


@pytest.mark.parametrize("program", [TRAIN, LORA, DECODE], ids=["full", "lora", "decode"])
def test_what_is_counted_by_hand_is_what_the_program_holds(program):
    mesh = MeshConfig()
    held = programs.held(program, make_mesh(mesh, jax.devices()[:1]))
    found = bounds.bound(program, mesh, chips.NAMED["v5e"])
    moved = roofline.traffic(program, mesh, held)
    assert found.memory_bytes == {kind: pytest.approx(size, rel=0.01) for kind, size in moved.items()}
    assert found.model_flops == roofline.model_flops(program)
    assert found.seconds == max(found.arithmetic, found.memory)


def test_more_chips_take_less_and_faster_chips_too():
    def seconds(program, mesh, chip):
        return bounds.bound(program, mesh, chips.NAMED[chip]).seconds

    for program in (TRAIN, LORA):
        assert seconds(program, MeshConfig(fsdp=4), "v5e") < seconds(program, MeshConfig(), "v5e")
        assert seconds(program, MeshConfig(), "v5p") < seconds(program, MeshConfig(), "v5e")
    assert seconds(DECODE, MeshConfig(tensor=4), "v5e") == pytest.approx(seconds(DECODE, MeshConfig(), "v5e") / 4)


def test_layers_that_are_computed_again_are_counted():
    again = bounds.bound(TRAIN, MeshConfig(), chips.NAMED["H100"])
    assert MODEL.remat == "full"
    assert 7 / 6 * again.model_flops < again.hardware_flops < 4 / 3 * again.model_flops
    kept = dataclasses.replace(TRAIN, model=dataclasses.replace(MODEL, remat="none"))
    assert bounds.bound(kept, MeshConfig(), chips.NAMED["H100"]).hardware_flops == again.model_flops
