"""`launch/tpu_vm.py` with a recorder in place of gcloud, which also plays back preemptions and failures."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_recorder import Recorder

from launch import commands, lifecycle, slices, tpu_vm
from launch.commands import Job
from launch.lifecycle import Limits
from msm_jax.errors import InputError, Preempted, WorkError

ROOT = Path(__file__).parent.parent
DOCUMENTED = (ROOT / "docs/launching.md").read_text()
# The command of the documentation: a spot slice of 64 chips on 16 hosts.
EXAMPLE = re.search(r"^    (python launch/tpu_vm\.py(?:.*\\\n)*.*)\n", DOCUMENTED, re.MULTILINE)


def block_after(line: str) -> str:
    """Returns the indented block of the documentation that follows a line, without its indentation."""
    found = re.search(rf"^{re.escape(line)}\n\n((?:    .*\n)+)", DOCUMENTED, re.MULTILINE)
    assert found, f"docs/launching.md has no block after {line!r}"
    return "".join(each[4:] for each in found[1].splitlines(keepends=True))


def words_of_example() -> list[str]:
    """Returns the words of the documented command."""
    assert EXAMPLE, "docs/launching.md shows no command"
    return shlex.split(EXAMPLE[1].replace("\\\n", " "))[1:]


def all_hosts(*statuses: int) -> str:
    """Returns what the hosts print at the end of a run."""
    return "\n".join(f"launch: host {i} exit status {status}" for i, status in enumerate(statuses))


@pytest.fixture
def gcloud(tmp_path, monkeypatch) -> Recorder:
    recorder = Recorder(tmp_path / "bin", "gcloud")
    monkeypatch.setenv("PATH", f"{recorder.path}:{os.environ['PATH']}")
    monkeypatch.delenv("MSM_JAX_TPU_PYTHON", raising=False)
    return recorder


@pytest.fixture
def without_gcloud(tmp_path, monkeypatch) -> None:
    git = shutil.which("git")
    assert git, "the tests need git"
    (tmp_path / "git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path))


def job(accelerator: str = "v5e:4x4", **fields) -> Job:
    defaults = {
        "name": "run", "zone": "us-west4-a", "project": "", "slice": slices.parse(accelerator), "spot": True,
        "runtime_version": "v2-alpha-tpuv5-lite", "share": "nas:/share", "directory": "/shared/run",
        "command": ("python", "-m", "msm_jax.train", "--config=configs/pretrain.py"),
    }
    return Job(**{**defaults, **fields})


def run(tmp_path: Path, retries: int = 5, keep: bool = False, **fields) -> None:
    lifecycle.run(job(**fields), Limits(retries, 0.0, keep), tmp_path / "logs")


def verbs(calls: list[list[str]]) -> list[str]:
    """Returns create, describe, delete, scp, and for ssh the script that it runs."""
    scripts = {"setup_host.sh": "setup", "run_on_host.sh": "run"}
    return [next((short for script, short in scripts.items() if script in call[-1]), call[4]) for call in calls]


def test_a_dry_run_of_the_documented_command_prints_the_documented_commands(without_gcloud, capsys):
    words = words_of_example()
    end = words.index("--")
    tpu_vm.launch([*words[:end], "--dry_run", *words[end:]])
    assert capsys.readouterr().out == block_after("With `--dry_run` it prints what it executes:")


def test_a_slice_with_one_host_works_in_a_bucket(gcloud, tmp_path, capsys):
    """It is prepared for it, and is no risk where the machine is lost."""
    gcloud.answer({"describe": [(0, "ACTIVE"), (0, "ACTIVE")], "run_on_host.sh": [(0, all_hosts(0))]})
    tpu_vm.launch([
        "tpu_vm", "--name=run", "--zone=z", "--accelerator=v5e:2x4", "--spot", "--workdir=gs://bucket/runs/mini",
        "--poll_seconds=0", f"--logs={tmp_path / 'logs'}", "--", "python", "-m", "msm_jax.sample", "--prompt=Hi",
    ])
    scripts = [call[-1] for call in gcloud.calls if call[4] == "ssh"]
    assert scripts[0].endswith("bash msm_jax/launch/setup_host.sh gs://bucket/runs/mini")
    assert scripts[1].endswith("--prompt=Hi --workdir=gs://bucket/runs/mini")
    assert "lost when" not in capsys.readouterr().err


def test_a_slice_that_is_preempted_twice_is_asked_for_again_until_the_run_is_complete(gcloud, tmp_path, capsys):
    """The documented command, with each call of gcloud as the dry run has it."""
    gcloud.answer({
        "describe": [
            (0, "WAITING_FOR_RESOURCES"), (0, "PROVISIONING"), (0, "ACTIVE"), (0, "SUSPENDED"),  # one host is gone
            (0, "ACTIVE"), (0, "ACTIVE"),  # all hosts have saved
            (0, "ACTIVE"), (0, "ACTIVE"),
        ],
        "run_on_host.sh": [
            (1, all_hosts(*[1] * 15)), (75, all_hosts(*[75] * 16)), (0, all_hosts(*[0] * 16)),
        ],
    })
    words = words_of_example()
    end = words.index("--")
    logs = tmp_path / "logs"
    tpu_vm.launch([*words[:end], "--poll_seconds=0", f"--logs={logs}", *words[end:]])
    told = capsys.readouterr().out

    dry = block_after("With `--dry_run` it prints what it executes:").replace("runs/launch/pretrain-64", str(logs))
    create, describe, scp, setup, execute, delete = [
        shlex.split(line) for line in dry.replace("\\\n", " ").splitlines() if line.startswith("gcloud")
    ]
    prepare = [scp, setup, execute, describe, delete]
    assert gcloud.calls == [
        create, describe, describe, describe, *prepare, create, describe, *prepare, create, describe, *prepare
    ]
    assert "the slice was lost" in told and "saved a checkpoint" in told and told.endswith("attempt 3: complete\n")
    assert "WAITING_FOR_RESOURCES, waited 0:00:0" in told
    assert sorted(path.name for path in logs.iterdir()) == [
        "attempt-1.log", "attempt-2.log", "attempt-3.log", "checkout.tar.gz", "commands.log"
    ]


@pytest.mark.parametrize(
    ("statuses", "hosts", "state", "expected"),
    [
        ([0, 0], 2, "ACTIVE", 0),
        ([0, 0], 2, "SUSPENDED", 0),  # complete before it was taken away
        ([75, 1], 2, "ACTIVE", 75),
        ([1], 2, "ACTIVE", None),  # the other host is gone
        ([], 1, "ACTIVE", None),
        ([1, 1], 2, "SUSPENDING", None),
        ([1, 134], 2, "ACTIVE", 1),
        ([1, 2], 2, "ACTIVE", 2),
    ],
)
def test_statuses_of_hosts_count_only_if_all_are_there(statuses, hosts, state, expected):
    assert lifecycle.outcome(statuses, hosts, state) == expected


@pytest.mark.parametrize(("status", "error"), [(1, WorkError), (2, InputError)])
def test_a_command_that_fails_or_is_refused_is_not_repeated_and_its_slice_is_deleted(gcloud, tmp_path, status, error):
    gcloud.answer({"describe": [(0, "ACTIVE")], "run_on_host.sh": [(status, all_hosts(*[status] * 4))]})
    with pytest.raises(error, match=r"attempt-1\.log"):
        run(tmp_path)
    assert verbs(gcloud.calls) == ["create", "describe", "scp", "setup", "run", "describe", "delete"]


def test_keep_leaves_the_slice_of_a_failed_command_and_names_what_deletes_it(gcloud, tmp_path, capsys):
    gcloud.answer({"describe": [(0, "ACTIVE")], "run_on_host.sh": [(1, all_hosts(*[1] * 4))]})
    with pytest.raises(WorkError):
        run(tmp_path, keep=True)
    assert "delete" not in verbs(gcloud.calls)
    assert shlex.join(commands.delete(job())) in capsys.readouterr().out


def test_a_slice_that_is_lost_too_often_ends_as_preempted(gcloud, tmp_path):
    gcloud.answer({"describe": [(0, "FAILED")]})
    with pytest.raises(Preempted, match="lost 3 times"):
        run(tmp_path, retries=2)
    assert verbs(gcloud.calls) == ["create", "describe", "delete"] * 3


def test_a_request_that_is_gone_or_a_host_that_ssh_does_not_reach_counts_as_lost(gcloud, tmp_path):
    gcloud.answer({
        "describe": [(1, "ERROR: NOT_FOUND: no such resource"), (0, "ACTIVE"), (0, "ACTIVE")],
        "delete": [(1, "ERROR: NOT_FOUND: no such resource"), (0, "")],
        "setup_host.sh": [(255, "ERROR: connection refused"), (0, "")],
        "run_on_host.sh": [(0, all_hosts(0, 0, 0, 0))],
    })
    run(tmp_path)
    assert verbs(gcloud.calls) == [
        "create", "describe", "delete", "create", "describe", "scp", "setup", "delete",
        "create", "describe", "scp", "setup", "run", "describe", "delete",
    ]


def test_a_first_request_that_fails_deletes_nothing_since_the_name_may_be_in_use(gcloud, tmp_path):
    gcloud.answer({"create": [(1, "ERROR: ALREADY_EXISTS: run exists")]})
    with pytest.raises(WorkError, match="ALREADY_EXISTS"):
        run(tmp_path)
    assert verbs(gcloud.calls) == ["create"]


def test_moments_without_network_are_outlasted(gcloud, tmp_path):
    gcloud.answer({
        "describe": [(1, "network is unreachable"), (1, "network is unreachable"), (0, "ACTIVE")],
        "scp": [(1, "connection refused"), (0, "")],
        "run_on_host.sh": [(0, all_hosts(0))],
        "delete": [(1, "network is unreachable"), (0, "")],
    })
    run(tmp_path, accelerator="v5e:2x4")
    assert verbs(gcloud.calls)[-2:] == ["delete", "delete"]


def test_an_interrupt_deletes_the_slice_and_says_so(gcloud, tmp_path):
    """SIGTERM takes the way of Ctrl-C."""
    gcloud.answer({"describe": [(0, "WAITING_FOR_RESOURCES")]})
    process = subprocess.Popen(
        [
            sys.executable, "launch/tpu_vm.py", "--name=run", "--zone=z", "--accelerator=v5e:4x4", "--poll_seconds=0.1",
            "--workdir=nfs://nas/share/run", f"--logs={tmp_path / 'logs'}", "--", "python", "-m", "msm_jax.train",
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    deadline = time.monotonic() + 60
    while len(gcloud.calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "deletes run" in told and verbs(gcloud.calls)[-1] == "delete"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--accelerator=v5e:3x3"], "--accelerator=v5e:3x3: there is no such slice; the nearest is v5e:2x4"),
        (["--accelerator=v5litepod-48"], "there is no such slice; the nearest is v5e:"),
        (["--accelerator=v9-8"], "no TPU is called 'v9'"),
        (["--accelerator=v5p:4x4x16"], "most compact shape"),
        (["--workdir=gs://bucket/run"], "on a slice with one host, and at nfs://"),
        (["--workdir=s3://bucket/run", "--accelerator=v5e:2x4"], "machines work at gs://BUCKET/DIRECTORY"),
        (["--workdir=runs/pretrain"], "4 hosts would each have a directory of their own"),
        (["--workdir=runs/pretrain", "--accelerator=v5e:2x4"], "add --keep"),
        (["--workdir=nfs://nas/share"], "write nfs://HOST/EXPORT/DIRECTORY"),
        (["--workdir=nfs://nas/share/../other"], "write nfs://HOST/EXPORT/DIRECTORY"),
        (["--name=My_Run"], "use lower-case letters"),
        (["--zoone=z"], "zone"),
        (
            [
                "--model=qwen3-32b", "--accelerator=v5p:2x2x4", "--", "python", "-m", "msm_jax.experiment",
                "--config=configs/experiments/paper_philosophy_qwen3_32b.py:devices=16",
            ],
            "scoring.mesh has 8 devices, and a host of v5p:2x2x4 has 4",
        ),
        (["--", "python", "-m", "msm_jax.sweep"], "msm_jax.sweep runs on one host, and the slice has 4"),
        (["--", "python", "-m", "msm_jax.train", "--workdir=x"], "give the workdir before --"),
        (["--", "python", "-m", "msm_jax.train", "--config", "x"], "write --config=FILE"),
        (["--"], "the command is missing"),
        (["--", "python", "-m", "msm_jax.train", "--config=configs/nowhere.py"], "no such file"),
        (
            ["--", "python", "-m", "msm_jax.train", "--config=configs/pretrain.py"],
            "mesh data=1, fsdp=1, tensor=1 has 1 devices, but v5e:4x4 has 16",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_is_refused_before_anything_is_created(gcloud, words, message):
    given = ["--name=run", "--zone=z", "--accelerator=v5e:4x4", "--workdir=nfs://nas/share/run"]
    end = words.index("--") if "--" in words else len(words)
    command = words[end:] or ["--", "python", "-m", "msm_jax.train"]
    with pytest.raises(InputError) as refused:
        tpu_vm.launch(["tpu_vm.py", *given, *words[:end], *command])
    assert message in str(refused.value) and not gcloud.calls


def test_a_config_that_does_not_fit_is_refused_by_its_plan(gcloud, tmp_path, monkeypatch):
    """With a compiler the plan of the dry run is executed, here by a recorder in place of Python."""
    python = Recorder(tmp_path / "other", "python")
    python.answer({"msm_jax.plan": [(1, "failed: does not fit")]})
    monkeypatch.setattr(sys, "executable", str(python.path / "python"))
    monkeypatch.setenv("MSM_JAX_TPU_PYTHON", "python")
    with pytest.raises(InputError, match="nothing was created"):
        tpu_vm.launch(words_of_example())
    planned = block_after("With `--dry_run` it prints what it executes:").replace("\\\n", " ").splitlines()[0]
    assert python.calls == [shlex.split(planned)] and not gcloud.calls


def test_a_missing_gcloud_is_refused_in_one_line(without_gcloud, capsys):
    given = ["--name=run", "--zone=z", "--accelerator=v5e:4x4", "--workdir=nfs://nas/share/run"]
    assert tpu_vm.main(["tpu_vm.py", *given, "--", "python", "-m", "msm_jax.train"]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith("refused: gcloud is not on PATH")


@pytest.mark.parametrize(
    ("name", "hosts", "flags"),
    [
        ("v5e:8x8", 16, ["--accelerator-type=v5litepod-64"]),
        ("v5litepod-64", 16, ["--accelerator-type=v5litepod-64"]),
        ("v5litepod-8", 1, ["--accelerator-type=v5litepod-8"]),
        ("v6e-256", 64, ["--accelerator-type=v6e-256"]),
        ("v5p:4x4x4", 16, ["--accelerator-type=v5p-128"]),
        ("v4:2x2x4", 4, ["--type=v4", "--topology=2x2x4"]),
        ("v5e:1x1", 1, ["--accelerator-type=v5litepod-1"]),
    ],
)
def test_slices_have_the_names_and_hosts_of_google_cloud(name, hosts, flags):
    found = slices.parse(name)
    assert (slices.hosts(found), slices.flags(found)) == (hosts, flags)


def test_words_with_blanks_and_dollars_reach_the_command_on_a_host_unchanged(tmp_path):
    """The script of ssh is executed by a real shell, with a program in place of Python that prints its words."""
    odd = "--config.name=a b'c\"$(touch broken);d"
    words = commands.run(job("v5e:2x4", command=("show", odd), directory="/shared/x y"))
    script = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    bin_dir = tmp_path / "msm_jax" / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    (tmp_path / "msm_jax" / "launch").symlink_to(ROOT / "launch")
    (tmp_path / "show").write_text('#!/bin/sh\nprintf "<%s>\\n" "$@"\nexit 75\n')
    (tmp_path / "show").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout.splitlines() == [f"<{odd}>", "<--workdir=/shared/x y>", "launch: host 0 exit status 75"]
    assert told.returncode == 75 and not list(tmp_path.rglob("broken"))


@pytest.mark.parametrize("endpoints", ["10.0.0.7,10.0.0.8", "a:b:10.0.0.7,a:b:10.0.0.8"])
def test_hosts_of_a_slice_tell_jax_who_they_are(tmp_path, endpoints):
    programs = Recorder(tmp_path / "bin", "curl")
    programs.answer({"worker-network-endpoints": [(0, endpoints)], "agent-worker-number": [(0, "1")]})
    environment = {**os.environ, "PATH": f"{programs.path}:{os.environ['PATH']}"}
    show = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"'
    told = subprocess.run(
        ["bash", "launch/run_on_host.sh", "2", "sh", "-c", show],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )
    assert told.stdout.splitlines() == ["10.0.0.7:8482 2 1", "launch: host 1 exit status 0"]


def test_a_host_that_gets_sigterm_still_tells_the_status_of_its_command(tmp_path):
    command = "trap 'sleep 0.2; exit 75' TERM; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(
        ["bash", "launch/run_on_host.sh", "1", "sh", "-c", command],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGTERM)  # as a machine does that shuts down
    assert process.stdout.read() == "launch: host 0 exit status 75\n"
    assert process.wait() == 75
