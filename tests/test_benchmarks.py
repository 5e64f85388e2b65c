"""The benchmarks' rows, products and ratios are correct, and compared sides take the same steps."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import checkpoints, data, dispatch, gpu, record, reference, saving, startup, train_step
from msm_jax.errors import WorkError
from msm_jax.models import presets, transformer

DIRECTORY = Path(train_step.__file__).parent


@pytest.mark.parametrize("script", sorted(DIRECTORY.glob("*.py")), ids=lambda path: path.name)
def test_parses_and_says_what_it_measures(script):
    # Some of them run in environments of their own and cannot be imported here.
    assert ast.get_docstring(ast.parse(script.read_text()))


@pytest.mark.parametrize(("preset", "kv_heads"), [("mini-0.3m", 4), ("mini-0.3m", 2), ("mini-15m", 6)])
def test_products_of_a_step_are_three_times_those_of_the_forward_pass(preset, kv_heads):
    config = presets.preset(preset, vocab_size=2560, num_kv_heads=kv_heads)
    flops = sum(2 * m * k * n * times for m, k, n, times in train_step.products(config, 1024))
    assert flops == 3 * 1024 * transformer.forward_flops_per_token(config, context=0)


def test_rows_are_packed_documents_that_predict_their_next_token():
    rows = train_step.packed_rows(16, 128, 50)
    for row in range(16):
        segments = rows["segment_ids"][row]
        used = int((segments > 0).sum())
        assert used > 128 - 8 and not segments[used:].any()
        assert set(np.diff(segments[:used])) <= {0, 1}
        for number in range(1, segments.max() + 1):
            here = segments == number
            np.testing.assert_array_equal(rows["positions"][row, here], np.arange(here.sum()))
            np.testing.assert_array_equal(rows["tokens"][row, here][1:], rows["targets"][row, here][:-1])
    np.testing.assert_array_equal(rows["loss_mask"], rows["segment_ids"] > 0)
    assert rows["tokens"].min() >= 0 and rows["tokens"].max() == rows["targets"].max() == 49


def test_spread_names_median_and_extremes():
    assert record.spread([1.5, 1.0, 4.0]) == "1.50  (1.00 to 4.00)"
    assert record.spread([1500.4, 1000, 4000], digits=0) == "1,500  (1,000 to 4,000)"
    assert record.quotients([1, 4], [2, 2]) == "1.25  (0.50 to 2.00)"


def test_a_result_takes_the_place_of_the_one_before(tmp_path):
    document = tmp_path / "performance.md"
    with pytest.raises(WorkError, match="no such file"):
        record.put(document, "One", "1")
    document.write_text("# Speed\n\nAbout.\n")
    for title, text in (("One", "1"), ("Two", "2"), ("One", "3"), ("Two", "4"), ("Three", "5")):
        record.put(document, title, text)
    assert document.read_text() == "# Speed\n\nAbout.\n\n## One\n\n3\n\n## Two\n\n4\n\n## Three\n\n5\n"


def test_a_section_is_a_table_with_its_command_and_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/where/it/lies/loss.py", "--repeats=3", "--ref_python=/a/b", "--write"])
    result = record.Result("Title", "About.", ("", "ours"), (("seconds", "1"),), notes="Notes.")
    assert record.section(result, record.command(), "A machine") == (
        "About.\n\n    python benchmarks/loss.py --repeats=3\n\n"
        "|  | ours |\n|---|---|\n| seconds | 1 |\n\nNotes.\n\nA machine."
    )
    assert "jax" in record.machine()


def test_dispatch_costs_little():
    """By the calling thread's own time, at ten times what is aimed at: the figure itself is the benchmark's."""
    ours, identity = dispatch.measure(dispatch.Case(calls=10), 10, time.thread_time)
    assert min(ours) - min(identity) <= 3e-3


def test_packing_beside_grain():
    ours, theirs, fills = data.pack(data.lengths(20_000), 500, 1)
    assert ours[0] < theirs[0]
    assert 0.99 < fills[0] <= 1 and 0.5 < fills[1] <= 1


def test_the_loader_is_ahead_of_the_step(tmp_path):
    loader, step = data.feed(tmp_path, "tiny", batches=50, steps=3, repeats=3)
    assert min(loader) > 10 * max(step)


def test_a_checkpoint_is_saved_and_restored(tmp_path):
    size, seconds = checkpoints.measure(presets.preset("mini-0.3m", vocab_size=64), tmp_path, 2)
    assert size > 3 * 4 * 100_000
    assert all(len(turns) == 2 and min(turns) > 0 for turns in seconds)
    waits, commits, *_ = seconds
    assert all(wait < commit for wait, commit in zip(waits, commits, strict=True))


def test_turns_with_a_save_and_without_are_told_apart_and_rounds_leave_no_descriptor(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "STEPS", 5)
    config = saving.phase(tmp_path, "tiny", 2)
    beside, without, waited, late = saving.train(config, tmp_path / "run")
    assert len(beside) == len(without) == 2 and min(*beside, *without, waited) > 0 and 0 <= late <= 3
    size, memory, files = saving.save_and_restore(config, tmp_path / "run", 4)
    assert size > 3 * 4 * 100_000 and min(memory) > size
    assert files[1] >= files[-1] > 0


@pytest.mark.slow
def test_start_up_is_measured_to_the_first_step(tmp_path):
    cold, warm, bare = startup.measure(tmp_path, "tiny", 1)
    assert bare[0] < warm[0] and bare[0] < cold[0]
    with pytest.raises(WorkError, match="ended with status 3"):
        startup.seconds([sys.executable, "-c", "raise SystemExit(3)"], "", tmp_path)


SMALL = presets.preset("llama3.2-1b", rope_scaling=None, vocab_size=96, hidden_size=32, num_layers=2, num_heads=4,
                       num_kv_heads=2, head_dim=8, intermediate_size=48)


def gpu_settings(lora, **model):
    case = gpu.Case("small", dataclasses.replace(SMALL, **model), lora, (2, 1), 64)
    return case, {
        "case": dataclasses.asdict(case), "lora": dataclasses.asdict(gpu.LORA), "steps": 3,
        "optimizer": dataclasses.asdict(dataclasses.replace(gpu.OPTIMIZER, learning_rate=1e-2)),
    }


@pytest.mark.parametrize("lora", [False, True])
def test_our_side_of_the_gpu_trains_what_it_is_told(lora):
    case, settings = gpu_settings(lora)
    found = gpu.ours(json.loads(json.dumps(settings)))
    assert len(found["seconds"]) == 3 and found["losses"][-1] < found["losses"][0]
    shown = gpu.row(case, {**found, "device": "NVIDIA H100", "peak": 2**31}, {"failed": "it"})
    assert shown[2] == "-" and shown[4].endswith("%") and shown[6] == "2.0"


@pytest.mark.parametrize(
    ("memory", "fits"), [(100, (8, "dots")), (80, (4, "dots")), (40, (2, "dots")), (20, (2, "full")), (10, None)]
)
def test_our_side_of_the_gpu_takes_the_most_rows_that_fit(memory, fits, monkeypatch):
    def trace(tried, mesh):
        temporary = tried.rows * {"dots": 10, "full": 5}[tried.model.remat]
        used = SimpleNamespace(argument_size_in_bytes=1, temp_size_in_bytes=temporary)
        compiled = SimpleNamespace(memory_analysis=lambda: used)
        return SimpleNamespace(lower=lambda: SimpleNamespace(compile=lambda: compiled))

    monkeypatch.setattr(gpu.program, "trace", trace)
    shape = gpu.TrainProgram(SMALL, gpu.OPTIMIZER, 2, 8, 64)
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": memory})
    mesh = SimpleNamespace(devices=np.array([device]))
    if fits is None:
        with pytest.raises(WorkError, match="does not fit"):
            gpu.fitting(shape, [8, 4, 2], mesh)
    else:
        taken, _ = gpu.fitting(shape, [8, 4, 2], mesh)
        assert (taken.rows, taken.model.remat) == fits


def test_a_side_that_fails_says_why():
    assert "status 1: ZeroDivisionError" in gpu.run([sys.executable, "-c", "1 / 0"], 60)["failed"]
    crashed = "import sys; sys.exit('F0 a check failed\\n    @ 0x65 _start')"
    assert gpu.run([sys.executable, "-c", crashed], 60)["failed"] == "ended with status 1: F0 a check failed"
    assert "time" in gpu.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.1)["failed"]


@pytest.mark.parity
@pytest.mark.parametrize("lora", [False, True])
def test_both_sides_of_the_gpu_take_the_same_steps(lora, ref_python, tmp_path):
    _, settings = gpu_settings(lora, compute_dtype="float32")
    mine = gpu.ours(json.loads(json.dumps(settings)))
    weights = tmp_path / "weights.npz"
    reference.write(weights, reference.weights(train_step.initial(SMALL), SMALL))
    (tmp_path / "case.json").write_text(json.dumps({**settings, "weights": str(weights)}))
    theirs = gpu.run([ref_python, str(DIRECTORY / "reference_gpu.py"), str(tmp_path / "case.json")], 300)
    assert "failed" not in theirs, theirs
    # The sides draw an adapter each; at first it changes nothing.
    compared = slice(1) if lora else slice(None)
    np.testing.assert_allclose(mine["losses"][compared], theirs["losses"][compared], rtol=1e-4)
    assert theirs["losses"][-1] < theirs["losses"][0]


def test_ours_answers_with_its_losses(tmp_path):
    case = train_step.Case(64, 4, 32, 1)
    train_step.write_inputs(tmp_path, "mini-0.3m", case, 1)
    requests = [{"do": "run"}, {"do": "run", "steps": 11}, {"do": "end"}]
    done = subprocess.run(
        [sys.executable, train_step.__file__, f"--work={tmp_path}", "--devices=2"],
        input="".join(json.dumps(each) + "\n" for each in requests), env=os.environ, text=True, check=True,
        capture_output=True,
    )
    first, more, end = map(json.loads, done.stdout.splitlines())
    assert first["seconds"] > 0 < more["seconds"]
    assert len(end["losses"]) == train_step.CHECKED
    assert end["losses"][0] == pytest.approx(np.log(64), rel=0.3)


@pytest.mark.parity
@pytest.mark.parametrize(("tunix", "spread"), [(False, False), (True, True)])
def test_all_sides_take_the_same_steps(tunix, spread, ref_python, tmp_path, monkeypatch):
    # Without a C++ compiler on the path theirs does not try to compile, which would take a minute.
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = os.environ.get("MSM_JAX_TUNIX_PYTHON", "") if tunix else ""
    if tunix and not peer:
        pytest.skip("MSM_JAX_TUNIX_PYTHON is not set: Tunix needs an environment of its own (`make tunix`, 1.6 GB)")
    case = train_step.Case(64, 4, 32, 1, spread)
    train_step.write_inputs(tmp_path, "mini-0.3m", case, 2)
    measured = train_step.compare(tmp_path, ref_python, case, threads=2, repeats=1, tunix=peer)
    assert measured["difference"] < train_step.TOLERANCE
    assert list(measured["tried"]) == ["eager, fused AdamW", "eager, foreach AdamW"]
    result = train_step.result("mini-0.3m", case, 2, measured)
    assert len(result.columns) == 3 + spread + tunix and {len(row) for row in result.rows} == {len(result.columns)}
