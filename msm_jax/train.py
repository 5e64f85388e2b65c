"""Trains one phase: python -m msm_jax.train --config=configs/pretrain.py --workdir=runs/pretrain

The workdir may be in a bucket: --workdir=gs://BUCKET/runs/pretrain.
"""

from msm_jax import cli
from msm_jax.checkpoints import workdirs
from msm_jax.foundation import mirror, settings
from msm_jax.parallel import distributed, hosts
from msm_jax.training import loop
from msm_jax.training.config import PhaseConfig

CONFIG = cli.config_flag()
WORKDIR = cli.workdir_flag()


def main() -> None:
    """Builds the phase from the flags, trains it and prints its result."""
    config = settings.build(PhaseConfig, cli.require(CONFIG))
    workdir = cli.require(WORKDIR)
    cli.prepare_backend(config.mesh.size, config.threads)
    distributed.start()
    with hosts.together(), workdirs.working(workdir) as directory:
        result = loop.train(config, directory)
    where = mirror.named(result.checkpoint)
    print(f"{config.name}: {result.tokens:,} tokens in {result.wall_seconds:.0f} s, {where}")


if __name__ == "__main__":
    cli.run_on_hosts(main)
