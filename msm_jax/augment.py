"""Drafts augmented variants of a spec of rules: with the values behind each rule, and with finer rules.

    python -m msm_jax.augment --config=configs/synthesis/augment.py:RULES.md --workdir=DIR

Writes DIR/RULES_value.md and DIR/RULES_rule.md. The rules stay word for word; revise the rest by hand before you
generate from it.
"""


from msm_jax import cli
from msm_jax.checkpoints import workdirs
from msm_jax.foundation import mirror, settings
from msm_jax.synthesis import augmentation

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()


def main() -> None:
    """Drafts, and prints the paths of the drafts.

    Raises:
        InputError: a setting, the spec or the workdir is refused.
    """
    config = settings.build(augmentation.AugmentConfig, cli.require(_CONFIG))
    with workdirs.opened(cli.require(_WORKDIR)) as workdir:
        for path in augmentation.run(config, workdir):
            print(mirror.named(path))


if __name__ == "__main__":
    cli.run(main)
