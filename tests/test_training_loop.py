"""The loop: the same bits interrupted or not, hand-off between phases, and how it ends when things go wrong."""

import dataclasses
import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from msm_jax.checkpoints import manifest, store
from msm_jax.data import files as data_files
from msm_jax.data import tokenizers
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.errors import InputError, Preempted, WorkError
from msm_jax.foundation import hashing, termination
from msm_jax.parallel.mesh import MeshConfig
from msm_jax.training import loop, metrics
from msm_jax.training.config import InitConfig, OptimizerConfig, PhaseConfig

MODEL = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": 512,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    """A directory with documents.jsonl, chats.jsonl and tokenizer/."""
    root = tmp_path_factory.mktemp("files")
    (root / "documents.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_corpus[:80]))
    chats = [
        {
            "messages": [
                {"role": "user", "content": t[:30]},
                {"role": "assistant", "content": t[30:50] or "no"},
            ]
        }
        for t in tiny_corpus[80:120]
    ]
    (root / "chats.jsonl").write_text("".join(json.dumps(c) + "\n" for c in chats))
    (root / "tokenizer").mkdir()
    for name, data in tiny_tokenizer.files().items():
        (root / "tokenizer" / name).write_bytes(data)
    return root


def phase(files, **changes):
    """A tiny phase from scratch; `data` and `optimizer` take dicts of changes."""
    data = {
        "seq_len": 32,
        "sources": {"web": SourceConfig(str(files / "documents.jsonl"), holdout=0.1)},
        "weights": {"web": 1.0},
        "cache_dir": str(files / "cache"),
    }
    optimizer = {"learning_rate": 1e-2, "warmup_steps": 2}
    values = {
        "name": "tiny",
        "seed": 5,
        "steps": 9,
        "batch_rows": 4,
        "data": DataConfig(**(data | changes.pop("data", {}))),
        "optimizer": OptimizerConfig(**(optimizer | changes.pop("optimizer", {}))),
        "preset": "mini-0.3m",
        "model_overrides": MODEL,
        "tokenizer": str(files / "tokenizer"),
        "eval_every": 4,
        "eval_batches": 2,
        "log_every": 1,
    }
    return PhaseConfig(**(values | changes))


def after(files, checkpoint, mode="params", **changes):
    """A tiny phase that starts from a checkpoint."""
    init = InitConfig(mode, str(checkpoint))
    return phase(files, init=init, preset="", model_overrides={}, tokenizer="", **changes)


def leaves(path):
    """Every array of a checkpoint, as host bytes by name."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        entry: jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=where),
            store.ocp.metadata(path.absolute(), entry).metadata,
        )
        for entry in ("params", "opt_state", "step")
    }
    found = store.load(path, shapes)
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_flatten_with_path(found)[0]}


def assert_same_bits(one, two):
    one, two = leaves(one), leaves(two)
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


TIMES = {
    "seconds", "tokens_per_second", "flops_per_second", "data_wait", "mfu", "slow_steps", "host_bytes", "device_bytes",
    "device_peak_bytes",
}  # fmt: skip


def records(workdir):
    """metrics.jsonl without what depends on time or memory."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def steps_in(progress):
    """The step of a report in a list, which is empty for a notice: on a busy machine any step may be a slow one."""
    return [progress["step"]] if "step" in progress else []


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(phase(files), workdir)


def test_an_uninterrupted_run_records_every_step(whole, files):
    workdir, result = whole
    steps = [r for r in records(workdir) if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 10))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(r["slots"] == 128 and 0 < r["tokens"] <= 128 and r["loss_tokens"] == r["tokens"] for r in steps)
    assert [r["step"] for r in records(workdir) if "holdout_loss" in r] == [4, 8, 9]
    assert all(3 < r["holdout_loss"]["web"] < 8 for r in records(workdir) if "holdout_loss" in r)
    assert result.tokens == sum(r["tokens"] for r in steps)
    assert result.steps == 9
    assert result.checkpoint == workdir / "checkpoints" / "9" == store.latest(workdir)
    assert result.flops > 0
    assert 0 < result.device_seconds < result.wall_seconds
    assert list((workdir / "tensorboard").iterdir())
    recorded = manifest.read(workdir)
    assert recorded.parent is None
    assert recorded.data == {str(files / "documents.jsonl"): hashing.file_sha256(files / "documents.jsonl")}
    assert recorded.versions["jax"] == jax.__version__
    assert recorded.epochs.keys() == {"web"}
    assert recorded.epochs["web"] > 0
    assert recorded.left_out == {}
    assert json.loads((workdir / "config.json").read_text())["data"]["sources"]["web"]["holdout"] == 0.1
    info = store.read_info(workdir)
    assert info["model"]["hidden_size"] == 16
    assert set(store.read_assets(workdir)) == {"tokenizer.model", "chat_template.jinja"}


def test_the_files_of_a_source_are_listed_once(files, tmp_path, monkeypatch):
    """On a remote storage each expansion of a path is a listing; an empty and a full token cache alike."""
    listed = []
    resolve = data_files.resolve
    monkeypatch.setattr(data_files, "resolve", lambda path: listed.append(path) or resolve(path))
    paths = {"web": str(files / "doc*.jsonl"), "talk": str(files / "chats.jsonl")}
    sources = {name: SourceConfig(paths[name], "chats" if name == "talk" else "documents") for name in paths}
    data = {"sources": sources, "weights": dict.fromkeys(paths, 0.5), "cache_dir": str(tmp_path / "cache")}
    for turn in ("empty", "full"):
        loop.train(phase(files, data=data, steps=2), tmp_path / turn)
        assert sorted(listed) == sorted(paths.values())
        listed.clear()
    assert len(manifest.read(tmp_path / "full").data) == 2


def test_a_done_run_returns_at_once(whole, files):
    workdir, result = whole
    before = (workdir / "metrics.jsonl").read_bytes()
    assert loop.train(phase(files), workdir) == result
    assert (workdir / "metrics.jsonl").read_bytes() == before
    with pytest.raises(InputError, match=r"config\.optimizer\.learning_rate is 0\.5"):
        loop.train(phase(files, optimizer={"learning_rate": 0.5}), workdir)


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("killed_at", [1, 4, 8])
def test_a_killed_run_continues_to_the_same_bits(whole, files, tmp_path, killed_at):
    config = phase(files, checkpoint_every=3)

    def report(progress):
        if progress.get("step") == killed_at:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, tmp_path, report)
    # A kill also cuts the record being written, and may come after records that no checkpoint holds.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "loss": 1.0}\n{"step": 1')
    loop.train(config, tmp_path)
    assert_same_bits(store.latest(tmp_path), store.latest(whole[0]))
    assert records(tmp_path) == records(whole[0])
    assert json.loads((tmp_path / "result.json").read_text())["tokens"] == whole[1].tokens
    assert len(store.all_steps(tmp_path)) <= config.keep_checkpoints


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_a_second_call_continues_to_the_same_bits(whole, files, tmp_path, number):
    before = signal.getsignal(number)

    def report(progress):
        if progress.get("step") == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(Preempted, match="run the same command again") as caught:
        loop.train(phase(files), tmp_path, report)
    assert "\n" not in str(caught.value)
    assert signal.getsignal(number) is before
    (saved,) = store.all_steps(tmp_path)
    assert 5 <= saved <= 7
    assert not (tmp_path / "result.json").exists()
    loop.train(phase(files), tmp_path)
    assert_same_bits(store.latest(tmp_path), store.latest(whole[0]))
    assert records(tmp_path) == records(whole[0])


def test_sigterm_that_arrives_twice_is_one_request(whole, files, tmp_path):
    """As where all processes of a run get it, and the main process passes it on."""

    def report(progress):
        if progress.get("step") in (6, 7):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        loop.train(phase(files), tmp_path, lambda progress: [report(progress) for _ in range(3)])
    assert int(store.latest(tmp_path).name) in (6, 7, 8)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_and_nothing_is_lost(whole, files, tmp_path, monkeypatch, second):
    monkeypatch.setattr(termination, "_SAME_SECONDS", 0.0)
    before = signal.signal(second, signal.default_int_handler)

    def report(progress):
        if progress.get("step") in (6, 7):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), second)

    try:
        with pytest.raises(KeyboardInterrupt):
            loop.train(phase(files), tmp_path, report)
        assert signal.getsignal(second) is signal.default_int_handler
    finally:
        signal.signal(second, before)
    loop.train(phase(files), tmp_path)
    assert_same_bits(store.latest(tmp_path), store.latest(whole[0]))


def test_phases_hand_on_parameters_tokenizer_and_template(whole, files, tmp_path):
    chats = {
        "sources": {"chats": SourceConfig(str(files / "chats.jsonl"), "chats")},
        "weights": {"chats": 1.0},
    }
    config = after(files, whole[0], data=chats, steps=2, optimizer={"learning_rate": 0.0, "warmup_steps": 0})
    loop.train(config, tmp_path / "sft")
    got, want = leaves(store.latest(tmp_path / "sft")), leaves(store.latest(whole[0]))
    for name in want:
        if name.startswith("['params']"):
            assert got[name].tobytes() == want[name].tobytes()
    assert got["['step']"] == 2
    assert store.read_assets(tmp_path / "sft") == store.read_assets(whole[0])
    steps = records(tmp_path / "sft")
    assert all(0 < r["loss_tokens"] < r["tokens"] for r in steps)
    parent = manifest.read(tmp_path / "sft").parent
    assert parent.checkpoint == str(store.latest(whole[0]))
    assert parent.manifest_sha256 == hashing.file_sha256(whole[0] / "manifest.json")


def test_a_full_state_counts_on(files, tmp_path):
    constant = {"schedule": "constant"}
    loop.train(phase(files, steps=6, optimizer=constant), tmp_path / "long")
    loop.train(phase(files, steps=4, optimizer=constant), tmp_path / "short")
    result = loop.train(after(files, tmp_path / "short", "state", steps=6, optimizer=constant), tmp_path / "more")
    assert result.steps == 2
    assert_same_bits(store.latest(tmp_path / "more"), store.latest(tmp_path / "long"))
    with pytest.raises(InputError, match="already done 4"):
        loop.train(after(files, tmp_path / "short", "state", steps=4), tmp_path / "none")


@pytest.mark.parametrize("eval_every", [0, 4])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(files, tmp_path, eval_every):
    # A rate this high makes the parameters overflow at once, so that the loss of the next step is not finite.
    config = phase(
        files,
        checkpoint_every=1,
        eval_every=eval_every,
        data={"stages": ()},
        optimizer={"learning_rate": 1e30, "warmup_steps": 0, "weight_decay": 0.0, "b1": 0.0},
    )
    with pytest.raises(WorkError) as caught:
        loop.train(config, tmp_path)
    message = str(caught.value)
    step = int(message.split("after step ")[1].split(";")[0])
    assert "is not finite" in message
    assert "\n" not in message
    assert "documents.jsonl:" in message
    good = store.all_steps(tmp_path)
    assert all(s < step for s in good)
    if good:
        assert message.endswith(f"last good checkpoint: {store.latest(tmp_path)}")
        assert all(np.isfinite(a).all() for a in leaves(store.latest(tmp_path)).values())
    else:
        assert message.endswith("last good checkpoint: none")
    assert all(np.isfinite(r["loss"]) for r in records(tmp_path) if "loss" in r)
    assert not (tmp_path / "result.json").exists()


def test_data_and_tokenizer_that_changed_are_refused(files, tmp_path):
    copy = tmp_path / "documents.jsonl"
    text = (files / "documents.jsonl").read_text()
    copy.write_text(text)
    config = phase(files, checkpoint_every=3, data={"sources": {"web": SourceConfig(str(copy), holdout=0.1)}})

    def report(progress):
        if progress.get("step") == 5:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, tmp_path / "run", report)
    copy.write_text(text.replace("cheese", "cheeses", 1))
    with pytest.raises(InputError, match=r"data changed since the checkpoint .*checkpoints/3"):
        loop.train(config, tmp_path / "run")
    copy.write_text(text)

    tokenizers.train_sentencepiece(["one two three"] * 9, tmp_path / "other", vocab_size=290)
    other = dataclasses.replace(config, tokenizer=str(tmp_path / "other"))
    with pytest.raises(InputError, match="does not match"):
        loop.train(other, tmp_path / "run")
    loop.train(config, tmp_path / "run")


def test_what_does_not_fit_is_refused_before_work(whole, files, tmp_path):
    refusals = {
        "no such checkpoint": after(files, tmp_path / "absent"),
        "max_position_embeddings": after(files, whole[0], data={"seq_len": 4096}),
        "does not match the model": phase(files, model_overrides=MODEL | {"vocab_size": 100}),
        "needs 16 devices": phase(files, mesh=MeshConfig(16), batch_rows=16),
        r"tensor of 4 does not divide .*heads = 2; the nearest that does: 2": phase(files, mesh=MeshConfig(tensor=4)),
    }
    for words, config in refusals.items():
        with pytest.raises(InputError, match=words):
            loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(InputError, match=r"batch_rows = 5 is not a multiple of 2.*; the nearest that is: 4 or 6"):
        phase(files, mesh=MeshConfig(fsdp=2), batch_rows=5)


def test_the_host_pays_little_per_step(files, tmp_path):
    """Records, TensorBoard and the clock cost well under a millisecond a step."""
    record = dict.fromkeys(("loss", "tokens", "grad_norm", "learning_rate", "seconds", "data_wait"), 1.5)
    file = metrics.MetricsFile(tmp_path / "metrics.jsonl", 0)
    board = metrics.TensorBoard(tmp_path, 0)
    start = time.thread_time()
    for step in range(1, 501):
        file.write({"step": step, **record})
        board.write({"step": step, **record})
    assert (time.thread_time() - start) / 500 < 1e-3
    file.close()
    board.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 500


def test_peaks_are_found_by_the_longest_name():
    assert metrics.peak_flops("TPU v5 lite") == 197e12
    assert metrics.peak_flops("TPU v5") == 459e12
    assert metrics.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert metrics.peak_flops("NVIDIA L40S") == 362e12
    assert metrics.peak_flops("cpu") is None
