"""tools/venv.sh refuses in one line, installs once, and again when something changed or an install failed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "venv.sh"

# Answers like an interpreter whose environments install nothing, and fail for a requirement named "bad".
STAND_IN = """#!/bin/sh
case "$*" in
    *"-m venv"*) for last; do :; done; rm -rf "$last"; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
    *"-m pip"*) for last; do :; done; ! grep -q bad "$last" ;;
    *) echo 3.12 ;;
esac
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in (SCRIPT, *words)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("lowest", "candidate"), [("3.98", sys.executable), ("3.11", "no-such-python"), ("3.11", "false")]
)
def test_without_an_interpreter_it_says_so_in_one_line(lowest: str, candidate: str, tmp_path: Path):
    requirements = tmp_path / "requirements.txt"
    requirements.touch()
    done = run(tmp_path / "env", requirements, lowest, "3.99", candidate)
    assert done.returncode == 2
    assert candidate in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "env").exists()


def test_an_interpreter_without_venv_is_named_with_the_remedy(tmp_path: Path):
    requirements, python = tmp_path / "requirements.txt", tmp_path / "python"
    requirements.touch()
    python.write_text("#!/bin/sh\nexit 4\n")
    python.chmod(0o755)
    done = run(tmp_path / "env", requirements, "3.11", "3.99", python, "no-such-python")
    assert done.returncode == 2
    assert f"{python} cannot make virtual environments" in done.stderr
    assert done.stderr.count("\n") == 1


def test_this_interpreter_is_accepted(tmp_path: Path):
    """The probe runs in a real interpreter; what it prints becomes the stamp that says the work is done."""
    env, requirements = tmp_path / "env", tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    (env / "bin").mkdir(parents=True)
    (env / "bin" / "python").symlink_to(sys.executable)
    (env / ".requirements").write_text(f"# python {sys.version_info[0]}.{sys.version_info[1]}\n# nothing\n")
    done = run(env, requirements, "3.11", "3.99", sys.executable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_installs_when_something_changed_and_only_then(tmp_path: Path):
    env, requirements, python = tmp_path / "env", tmp_path / "requirements.txt", tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def installs(content: str) -> bool:
        requirements.write_text(content)
        done = run(env, requirements, "3.11", "3.99", "no-such-python", python)
        assert (done.returncode == 0) == ("bad" not in content)
        return "setting up" in done.stdout

    assert installs("jax==1\n")
    assert not installs("jax==1\n")
    assert installs("jax==2\n")
    assert not installs("jax==2\n")
    assert installs("bad==1\n")
    assert installs("bad==1\n"), "a failed installation counts as complete"
    python.write_text(STAND_IN.replace("3.12", "3.13"))
    assert installs("jax==2\n"), "an environment of another Python counts as complete"
    (env / "bin" / "python").unlink()
    assert installs("jax==2\n"), "an environment without an interpreter counts as complete"


def test_a_change_in_an_included_file_installs_again(tmp_path: Path):
    env, outer, inner, python = (tmp_path / name for name in ("env", "outer.txt", "inner.txt", "python"))
    python.write_text(STAND_IN)
    python.chmod(0o755)
    outer.write_text("-r inner.txt\nopenai==1\n")
    said = []
    for content in ("jax==1\n", "jax==1\n", "jax==2\n"):
        inner.write_text(content)
        said.append("setting up" in run(env, outer, "3.11", "3.99", python).stdout)
    assert said == [True, False, True]
