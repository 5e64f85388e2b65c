"""The benchmarks' rows, products and ratios are what they say; both sides of the training one take the same steps."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import reference, train_step
from msm_jax.models import presets, transformer

DIRECTORY = Path(train_step.__file__).parent


@pytest.mark.parametrize("script", sorted(DIRECTORY.glob("*.py")), ids=lambda path: path.name)
def test_parses(script):
    ast.parse(script.read_text())


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
    assert reference.spread([1.5, 1.0, 4.0]) == "1.50  (1.00 to 4.00)"


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
def test_both_sides_take_the_same_steps(ref_python, tmp_path, monkeypatch):
    # Without a C++ compiler on the path theirs does not try to compile, which would take a minute.
    monkeypatch.setenv("PATH", str(tmp_path))
    train_step.write_inputs(tmp_path, "mini-0.3m", train_step.Case(64, 4, 32, 1), 2)
    measured = train_step.compare(tmp_path, ref_python, steps=1, threads=2, repeats=1)
    assert measured["difference"] < train_step.TOLERANCE
    assert list(measured["tried"]) == ["eager, fused AdamW", "eager, foreach AdamW"]
