"""The train command in real processes: exit statuses and their one line, and two hosts that equal one."""

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import several_hosts
from conftest import QUICK_COMPILES

from msm_jax import cli
from msm_jax.errors import InputError, Preempted, WorkError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    """A config file of a tiny phase, with its data and tokenizer beside it."""
    root = tmp_path_factory.mktemp("command")
    (root / "documents.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_corpus[:60]))
    (root / "tokenizer").mkdir()
    for name, data in tiny_tokenizer.files().items():
        (root / "tokenizer" / name).write_bytes(data)
    path = root / "config.py"
    path.write_text(
        textwrap.dedent(
            f"""
            from ml_collections import ConfigDict

            def get_config(wrong=""):
                if wrong == "raises":
                    {{}}["absent"]
                return ConfigDict({{
                    "name": "tiny", "seed": 1, "steps": 6, "batch_rows": 8, "preset": "mini-0.3m",
                    "tokenizer": {str(root / "tokenizer")!r}, "threads": 1, "checkpoint_every": 2,
                    "eval_every": 3, "eval_batches": 1, "micro_batches": 1,
                    "model_overrides": {{
                        "hidden_size": 16, "num_layers": 2, "intermediate_size": 32, "vocab_size": 512,
                    }},
                    "data": {{
                        "seq_len": 32, "weights": {{"web": 1.0}}, "cache_dir": {str(root / "cache")!r},
                        "sources": {{"web": {{"path": {str(root / "documents.jsonl")!r}, "holdout": 0.1}}}},
                    }},
                    "optimizer": {{"learning_rate": 1e-2, "warmup_steps": 2}},
                    "mesh": {{"data": 1, "fsdp": 1, "tensor": 1}},
                }})
            """
        )
    )
    return path


def start(*arguments, **env):
    """`python -m msm_jax.train` as a child, without the eight devices of these tests unless `env` asks for them."""
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILES, **env}
    return subprocess.Popen(
        [sys.executable, "-m", "msm_jax.train", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child):
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def test_simulated_devices_and_two_hosts_equal_one(config_file, tmp_path):
    one = start(f"--config={config_file}", f"--workdir={tmp_path / 'one'}")
    assert finish(one)[0] == 0
    words = ["-m", "msm_jax.train", f"--config={config_file}", "--workdir=two"]
    status, errors = several_hosts.finish(
        several_hosts.start([*words, *(f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor"))], tmp_path)
    )
    assert status == [0, 0], errors
    single, double = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert single.keys() == double.keys() == set(range(1, 7))
    for step, record in single.items():
        for name in ("loss", "grad_norm"):
            assert double[step][name] == pytest.approx(record[name], rel=1e-5)
        for name in ("tokens", "loss_tokens", "learning_rate"):
            assert double[step][name] == record[name]


def test_sigterm_saves_exits_75_and_the_next_call_goes_on(config_file, tmp_path):
    child = start(f"--config={config_file}", f"--workdir={tmp_path}", "--config.steps=100000")
    while not (tmp_path / "checkpoints" / "2").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    status, _, err = finish(child)
    assert status == 75, err
    assert err.splitlines()[-1].startswith("preempted: tiny stopped after step ")
    assert "Traceback" not in err


def test_refusals_exit_2_with_one_line(config_file, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": ""}\n')
    for arguments, words in {
        (f"--config={config_file}", "--config.optimizer.learning_rat=1"): "did you mean learning_rate?",
        (f"--config={config_file}", f"--config.data.sources.web.path={bad}"): "bad.jsonl:2",
    }.items():
        status, out, err = finish(start(*arguments, f"--workdir={tmp_path / 'run'}"))
        assert (status, out) == (2, "")
        assert words in err
        assert err.startswith("refused: ") or err.splitlines()[-1].startswith("refused: ")
        assert "Traceback" not in err
    assert not (tmp_path / "run" / "config.json").exists()


TOOL = """
from msm_jax import cli
CONFIG, WORKDIR = cli.config_flag(), cli.workdir_flag()
cli.run(lambda: cli.require(CONFIG))
"""


def run_tool(tmp_path, *arguments):
    """An entry point of its own; in this process it would leave its flags behind."""
    script = tmp_path / "tool.py"
    script.write_text(TOOL)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def parse(monkeypatch, config_file, *arguments):
    """What `cli.parse_flags` says of a command line, with fresh flags."""
    from absl import flags
    from ml_collections import config_flags

    fresh = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", fresh)
    config_flags.DEFINE_config_file("config", None, "", flag_values=fresh, sys_argv=["tool", *arguments])
    flags.DEFINE_string("workdir", None, "", flag_values=fresh)
    cli.parse_flags(["tool", *arguments])
    return fresh


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config={}", "--config.step=3"], "--config.step: unknown field; did you mean steps?"),
        (
            ["--config={}", "--config.optimizer.lr=3"],
            "--config.optimizer.lr: unknown field; valid: learning_rate",
        ),
        (["--config={}", "--config.data.weights.new=1"], "--config.data.weights.new: unknown field"),
        (["--config={}", "--config.steps=many"], "--config.steps=many: invalid literal"),
        (["--config={}", "--config.steps=0.5"], "--config.steps=0.5: invalid literal"),
        (["--config={}:raises"], "config.py:6: KeyError: absent"),
        (["--config=absent.py"], "no such file 'absent.py'"),
        (["--config.steps=3"], "add --config=FILE before it"),
        (["--config={}", "--workdr=x"], "Did you mean: workdir"),
        (["--config={}", "stray"], "unexpected argument 'stray'"),
    ],
)
def test_wrong_command_lines_are_refused_in_one_line(monkeypatch, config_file, arguments, words):
    with pytest.raises(InputError) as caught:
        parse(monkeypatch, config_file, *[a.format(config_file) for a in arguments])
    message = cli._one_line(caught.value)
    assert words in message
    assert "\n" not in message


def test_right_command_lines_are_taken(monkeypatch, config_file):
    fresh = parse(
        monkeypatch,
        config_file,
        f"--config={config_file}",
        "--config.optimizer.learning_rate=3",
        "--config.steps=2",
    )
    assert fresh.config.optimizer.learning_rate == 3.0
    assert fresh.config.steps == 2


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (None, 0, ""),
        (InputError("a\nb"), 2, "refused: a b\n"),
        (WorkError("disk full"), 1, "failed: disk full\n"),
        (Preempted("saved"), 75, "preempted: saved\n"),
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to continue\n"),
    ],
)
def test_errors_become_statuses(monkeypatch, capsys, error, status, words):
    monkeypatch.setattr(cli, "parse_flags", lambda argv: None)
    monkeypatch.setattr(cli, "set_up", lambda: None)

    def main():
        if error is not None:
            raise error

    assert cli.status(main, ["tool"]) == status
    assert capsys.readouterr().err == words


def test_sigterm_outside_of_training_is_one_line_and_status_75(monkeypatch, capsys):
    """At any moment: Python drops the exception in a callback of the garbage collector, but not the signal."""
    monkeypatch.setattr(cli, "parse_flags", lambda argv: None)
    monkeypatch.setattr(cli, "set_up", lambda: None)

    def main():
        gc.callbacks.append(lambda phase, info: phase == "stop" and os.kill(os.getpid(), signal.SIGTERM))
        gc.collect()
        gc.callbacks.pop()
        time.sleep(60)

    for work in (main, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert cli.status(work, ["tool"]) == 75
        said = "preempted: stopped by SIGTERM; run the same command again to continue\n"
        assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_missing_config_and_help(tmp_path):
    done = run_tool(tmp_path)
    assert (done.returncode, done.stderr) == (2, "refused: --config is missing; give --config=...\n")
    done = run_tool(tmp_path, "--help")
    assert done.returncode == 0
    assert "--workdir" in done.stdout


PREPARE = """
import os, sys
from msm_jax import cli
cli.prepare_backend(devices=int(sys.argv[1]), threads=int(sys.argv[2]))
import jax
jax.device_put(1).block_until_ready()
print(jax.device_count())
if os.path.exists("/proc/self/task"):
    names = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
    print(names.count("tf_XLAEigen"))
cli.prepare_backend(devices=1, threads=0)
try:
    cli.prepare_backend(devices=4, threads=0)
except cli.InputError as error:
    print(error)
"""


@pytest.mark.parametrize(("devices", "threads"), [(3, 0), (1, 5)])
def test_device_and_thread_counts_take_hold(devices, threads):
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(devices), str(threads)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK_COMPILES},
        capture_output=True,
        text=True,
        check=True,
    )
    count, *pool, refusal = done.stdout.splitlines()
    assert count == str(devices)
    if devices == 1:
        assert pool in ([str(threads)], [])
    assert refusal == "4 devices are needed, but JAX has already started with fewer; use a new process"
