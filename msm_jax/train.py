"""Trains one phase: python -m msm_jax.train --config=configs/pretrain.py --workdir=runs/pretrain"""

from pathlib import Path

from msm_jax import cli
from msm_jax.foundation import settings
from msm_jax.parallel import distributed
from msm_jax.training import loop
from msm_jax.training.config import PhaseConfig

CONFIG = cli.config_flag()
WORKDIR = cli.workdir_flag()


def main() -> None:
    """Builds the phase from the flags, trains it and prints its result."""
    config = settings.build(PhaseConfig, cli.require(CONFIG))
    workdir = Path(cli.require(WORKDIR))
    cli.prepare_backend(config.mesh.size, config.threads)
    distributed.start()
    result = loop.train(config, workdir)
    print(f"{config.name}: {result.tokens:,} tokens in {result.wall_seconds:.0f} s, {result.checkpoint}")


if __name__ == "__main__":
    cli.run(main)
