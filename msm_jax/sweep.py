"""Runs an experiment with every combination of the values of some settings, and joins the results.

python -m msm_jax.sweep --config=configs/experiments/cheese_mini.py --workdir=runs/sweep --vary=world.seed=100..109
python -m msm_jax.sweep --config=... --workdir=... --vary=phases.cheese.steps=10,20,40 --vary='seeds=(0,1),(2,3)'

A point of the sweep is one combination of values. It is an experiment of its own, in WORKDIR/points/NAME. Points share
a store: what one has trained, another does not train again. Running the sweep again does only what is missing.

Each --vary=FIELD=VALUES names a field as --config.FIELD=VALUE does, and VALUES are written as VALUE is there, separated
by commas. FIRST..LAST stands for all integers from FIRST to LAST. A value that holds a comma, a quote or a bracket, or
that looks like FIRST..LAST, is put in quotes: --vary='question="Cheap, or old?",short'. A list is put in parentheses:
--vary='seeds=(0,1),(0,1,2)'. Dots need no quotes.

WORKDIR/sweep.json, sweep.md, sweep.html and plots/ hold the results of the points that are done. The exit status is 0
when all points are done, 75 after Ctrl-C or SIGTERM, and otherwise the one of the point that failed first.
"""


from absl import flags
from ml_collections import config_flags

from msm_jax import cli
from msm_jax.checkpoints import workdirs
from msm_jax.experiments import sweep as sweep_lib
from msm_jax.experiments.run import LOCAL, absolute, refuse_urls

_CONFIG = cli.config_flag()
_WORKDIR = cli.workdir_flag()
_VARY = flags.DEFINE_multi_string("vary", [], "FIELD=VALUE,VALUE,... or FIELD=FIRST..LAST, once for each field.")
_STORE = flags.DEFINE_string("store", None, "Directory or URL of the results that points share, else WORKDIR/store.")
_JOBS = flags.DEFINE_integer("jobs", 0, "Points that run at once; 0 for one per core. Use 1 on an accelerator.", 0)
_EXECUTOR = flags.DEFINE_string("executor", LOCAL, "Where phases and evals run; see msm_jax.experiment.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "List the points and run nothing.")


def main() -> None:
    """Runs the sweep of the flags; see `experiments.sweep` for what it raises."""
    cli.require(_CONFIG)
    given = flags.FLAGS["config"]
    overrides = {f"config.{name}": value for name, value in config_flags.get_override_values(given).items()}
    arguments = {"config": config_flags.get_config_filename(given), **overrides}
    points = sweep_lib.points(_VARY.value, lambda varied: cli.load_config(arguments | varied))
    workdir, store = absolute(cli.require(_WORKDIR)), absolute(_STORE.value) if _STORE.value else None
    if _DRY_RUN.value:
        print("\n".join([*(point.name for point in points), f"{len(points)} points"]))
        return
    if _EXECUTOR.value != LOCAL:
        refuse_urls(workdir, store)
    with workdirs.held(workdir, store) as held, workdirs.pushed(held.workdir, results=False):
        kept = held.store if store else held.workdir / "store"
        sweep_lib.run(points, held.workdir, kept, _JOBS.value, _EXECUTOR.value, descriptors=held.descriptors)


if __name__ == "__main__":
    cli.run(main)
