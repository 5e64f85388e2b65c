"""From the shell to the first step: the demo's pretraining as `python -m msm_jax.train` starts it.

    python benchmarks/startup.py

The data is tokenised beforehand. A cold start compiles; a warm start finds the programs that the cold one compiled.
Both are compared with what every JAX program needs: starting Python, importing jax and asking for its devices.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import demo, record
from msm_jax import cli
from msm_jax.errors import WorkError
from msm_jax.foundation import settings

ROOT = Path(__file__).resolve().parent.parent
BARE = "import jax; jax.devices()"


def main() -> None:
    """Measures and publishes."""
    with tempfile.TemporaryDirectory() as directory:
        cold, warm, bare = measure(Path(directory), "", record.REPEATS.value)
    record.publish(record.Result(
        title="Start-up to the first step",
        about="Seconds from the start of the process to the end of the first step of the demo's pretraining.",
        columns=("", "seconds", "/ importing jax"),
        rows=(
            ("cold, without compiled programs", record.spread(cold), record.quotients(cold, bare)),
            ("warm", record.spread(warm), record.quotients(warm, bare)),
            ("importing jax, asking for its devices", record.spread(bare), ""),
        ),
    ))


def measure(directory: Path, variant: str, repeats: int) -> list[list[float]]:
    """Returns the seconds of a cold start, of a warm one and of importing jax, for each turn.

    `variant` is the argument of the demo's config.
    """
    # The loss of the one step is logged, so a line on standard error says when it is done.
    phase = settings.to_json(demo.phase(directory, variant, steps=1))
    config = directory / "phase.py"
    config.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n\ndef get_config():\n"
        f"    return ConfigDict(json.loads({json.dumps(phase)!r}))\n"
    )
    caches, workdir = directory / "caches", directory / "run"
    command = [sys.executable, "-m", "msm_jax.train", f"--config={config}", f"--workdir={workdir}"]

    def first_step() -> float:
        shutil.rmtree(workdir, ignore_errors=True)
        return seconds(command, "step 1 of 1", caches)

    def cold() -> float:
        shutil.rmtree(caches, ignore_errors=True)
        return first_step()

    cold()  # tokenises the data
    return record.turns([cold, first_step, lambda: seconds([sys.executable, "-c", BARE], "", caches)], repeats)


def seconds(command: list[str], line: str, caches: Path) -> float:
    """Returns the seconds from the start of a process until it writes `line` to standard error, or ends if it is "".

    Raises:
        WorkError: the process fails, or never writes the line.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(caches), "PYTHONPATH": str(ROOT)}
    began, took, said = time.perf_counter(), None, []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for text in process.stderr:
            said.append(text)
            if line and line in text and took is None:
                took = time.perf_counter() - began
    if not line:
        took = time.perf_counter() - began
    if process.returncode or took is None:
        raise WorkError(f"{command[1:3]} ended with status {process.returncode}: {''.join(said[-3:])}")
    return took


if __name__ == "__main__":
    cli.run(main)
