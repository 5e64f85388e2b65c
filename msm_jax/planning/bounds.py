"""Lower bounds on the time of a step that need no compiler: by arithmetic and by memory, without the links.

They are those of `planning.roofline`, with what only a compiler knows left out or counted by hand: collectives are left
out, and of the layers that `remat` computes again all products but the last one of each layer count, whose result is
not needed again. `plan` has the whole bound.
"""

from __future__ import annotations

import functools
import math

from msm_jax.models import lora, paged, transformer
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.planning import roofline
from msm_jax.planning.chips import Chip
from msm_jax.planning.programs import PAGE, DecodeProgram, Program
from msm_jax.planning.roofline import Bound
from msm_jax.training import metrics
from msm_jax.training.program import TrainProgram

_COMPUTE_BYTES = 2  # bfloat16
_MOMENTS_BYTES = 8  # two moments in float32


@functools.cache
def bound(program: Program, mesh: MeshConfig, chip: Chip) -> Bound:
    """Returns the bound of one execution on a mesh of chips, at most that of `roofline.bound`.

    A chip whose arithmetic speed is not known is a mistake in `planning.chips`.
    """
    peak = metrics.peak_flops(chip.kind)
    assert peak is not None, f"{chip.name} is listed in planning.chips but not in training.metrics"
    model_flops = roofline.model_flops(program)
    again = 0.0
    if isinstance(program, TrainProgram) and program.model.remat in ("full", "offload"):
        model, context = program.model, (program.seq_len + 1) / 2
        last = model.hidden_size * model.vocab_size + model.num_layers * math.prod(lora.sizes(model, "down"))
        forward = transformer.forward_flops_per_token(model, context) - 2 * last
        again = forward * program.rows * program.seq_len
    moved = roofline.traffic(program, mesh, _held(program, mesh))
    return Bound(
        arithmetic=(model_flops + again) / mesh.size / peak,
        memory=sum(moved.values()) / chip.hbm_bandwidth,
        links={},
        model_flops=model_flops,
        hardware_flops=model_flops + again,
        memory_bytes=moved,
        link_bytes={},
        link_bandwidth={},
        tokens=program.rows * program.seq_len if isinstance(program, TrainProgram) else program.batch,
        devices=mesh.size,
        peak=peak,
    )


def _held(program: Program, mesh: MeshConfig) -> dict[str, float]:
    """Returns the bytes per chip of weights and caches, or of the optimizer's state, split evenly over the mesh."""
    model, ways = program.model, mesh.fsdp * mesh.tensor
    if isinstance(program, DecodeProgram):
        weights = transformer.count_params(model) + sum(lora.count_weights(each, model) for each in program.beside)
        # Each row has its pages, at least the near ones, and one page is for what no row reads.
        pages = 1 + program.batch * max(paged.NEAR, math.ceil(program.slots / PAGE))
        caches = pages * PAGE * 2 * model.num_layers * model.num_kv_heads * model.head_dim
        return {
            "weights": _COMPUTE_BYTES * weights / ways,
            "caches": _COMPUTE_BYTES * caches / math.gcd(mesh.tensor, model.num_kv_heads),
        }
    trained = transformer.count_params(model)
    if program.adapter is not None:
        trained = lora.count_weights(program.adapter, model)
    return {"optimizer": _MOMENTS_BYTES * trained / ways}
