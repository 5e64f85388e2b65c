"""colab/mini_experiment.ipynb runs as it stands, in an environment of its own, from a clone of this tree."""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import QUICK_COMPILES

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "colab" / "mini_experiment.ipynb"

# Executes code cells as a notebook would, magics and shell lines too, and counts the images it shows.
DRIVER = """
import json, sys
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

cells, parameters = json.load(open(sys.argv[1])), json.loads(sys.argv[2])
shell = InteractiveShell.instance(display_pub_class=CapturingDisplayPublisher)
for cell in cells["cells"]:
    if cell["cell_type"] == "code":
        source = "".join(cell["source"])
        print(">>>", source, flush=True)
        shell.user_ns["_exit_code"] = 0
        shell.run_cell(source).raise_error()
        if shell.user_ns["_exit_code"]:
            sys.exit("a shell line of this cell failed")
        if "parameters" in cell["metadata"].get("tags", ()):
            shell.user_ns.update(parameters)
print("images shown:", sum("image/png" in output["data"] for output in shell.display_pub.outputs))
"""


def environment(directory: Path) -> dict[str, str]:
    """Variables under which `python` is a new environment that sees our packages, and pip sees no network."""
    venv.create(directory)
    # Without what conftest.py says of simulated devices: the notebook's user does not have it.
    inherited = {name: value for name, value in os.environ.items() if name != "NPROC"}
    return inherited | {
        "XLA_FLAGS": QUICK_COMPILES,
        "PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one as "no isolation", whatever its name suggests
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
    }


def repository(directory: Path) -> Path:
    """A git repository with this tree's files as they are now, committed or not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "The tree under test"]):
        subprocess.run(["git", *command], cwd=directory, check=True)
    return directory


@pytest.mark.slow
def test_notebook_runs_and_shows_plots(tmp_path: Path):
    origin = repository(tmp_path / "origin")
    variables = environment(tmp_path / "env")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [tmp_path / "env/bin/python", "-c", DRIVER, NOTEBOOK, json.dumps({"REPOSITORY": str(origin)})],
        cwd=work, env=variables, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    images = int(done.stdout.rsplit("images shown:", 1)[1])
    assert images == len(list((work / "msm_jax/runs/notebook/plots").glob("*.png"))) > 0


def test_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell for cell in cells if cell["cell_type"] == "code"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
