"""SmolLM2's real weights: rounding beside that of transformers, greedy continuations, the way in and out.

`make smollm2` fetches the file; without it these tests are skipped.
"""

import contextlib
import json

import float64_llama
import jax
import numpy as np
import pytest
import tokenizers
from test_parity_weights import assert_same_tensors, load_checkpoint, reference
from test_sampling_decode import plain_logits

from msm_jax.checkpoints import exports, gguf, huggingface, imports, safetensors, store
from msm_jax.sampling.config import SamplingConfig
from msm_jax.sampling.engine import Engine
from tools import smollm2

TEXTS = [
    "The capital of France is",
    "Cheese is made from milk. In the mountains of Switzerland, the cows graze all summer, and the milk is made into",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once upon a time, in 1987, a naïve café owner — her name was Zoë — bought 12,345 teapots.\n\n",
    "<|im_start|>user\nWhich is larger, the Sun or the Moon?<|im_end|>\n<|im_start|>assistant\n",
]
NEW = 64

pytestmark = [pytest.mark.parity, pytest.mark.long]


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """The directory with SmolLM2 as our checkpoint (run) and as an export of it (hf)."""
    file = smollm2.fetch()
    directory = tmp_path_factory.mktemp("smol")
    imports.write(gguf.File(file), directory / "run")
    exports.write(directory / "run", directory / "hf")
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "hf" / "tokenizer.json"))
    (directory / "prompts.json").write_text(json.dumps([tokenizer.encode(text).ids for text in TEXTS]))
    return directory


def test_logits_are_as_near_to_float64_as_those_of_transformers(smol, ref_python):
    rows = json.loads((smol / "prompts.json").read_text())
    # One sequence long enough for rounding to add up.
    tokens = np.array([[i for row in rows for i in row][:160]], np.int32)
    np.save(smol / "tokens.npy", tokens)
    reference(ref_python, "logits", smol)
    theirs = np.load(smol / "logits.npy")[0]
    config, params = load_checkpoint(smol / "run")
    exact = float64_llama.logits(params, config, tokens[0])
    ours = plain_logits(params, config, tokens[0].tolist())
    errors = [np.abs(each - exact).max() for each in (ours, theirs)]
    print(f"parity: SmolLM2: error of logits against float64 {errors[0]:.1e}, that of transformers {errors[1]:.1e}")
    assert errors[0] <= 2 * errors[1]
    assert errors[0] <= 1e-3


def test_greedy_continuations_are_those_of_transformers(smol, ref_python):
    reference(ref_python, "greedy", smol)
    theirs = json.loads((smol / "greedy.json").read_text())
    engine = Engine.from_checkpoint(smol / "run")
    prompts = json.loads((smol / "prompts.json").read_text())
    with contextlib.closing(engine):
        replies = engine.generate(prompts, SamplingConfig(max_new_tokens=NEW, temperature=0.0))
    same = []
    for ours, ids, gaps in zip([list(reply.ids) for reply in replies], *theirs.values(), strict=True):
        # An id that ends our reply ends none on the other side.
        assert len(ids) == NEW
        assert len(ours) == NEW or ours[-1] in engine.stop_ids
        ids = ids[: len(ours)]
        apart = next((step for step in range(len(ours)) if ours[step] != ids[step]), NEW)
        same.append(apart)
        assert apart == NEW or gaps[apart] < 1e-3, f"step {apart}: the top two logits were {gaps[apart]} apart"
    print(f"parity: SmolLM2: greedy tokens that are the same, of {NEW}: {same}")


def test_gguf_gives_the_tensors_of_transformers_own_importer(smol, ref_python):
    reference(ref_python, "gguf", smol, smollm2.CACHE / smollm2.FILE)
    (smol / "theirs").mkdir()
    (smol / "tensors.safetensors").rename(smol / "theirs" / safetensors.SINGLE_FILE)
    count = assert_same_tensors(smol / "theirs", smol / "hf")
    assert count == 30 * 9 + 2  # nine in each layer, the embedding and the last norm


def test_export_in_bfloat16_loads_with_its_tokenizer(smol, ref_python, tmp_path):
    exports.write(smol / "run", tmp_path / "smol" / "hf", np.dtype(jax.numpy.bfloat16), shard_bytes=10**8)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    reference(ref_python, "inspect", tmp_path)
    seen = json.loads((tmp_path / "smol" / "seen.json").read_text())
    assert seen["config"]["dtype"] == "bfloat16"
    assert seen["generation"]["eos_token_id"] == 2
    assert seen["eos"] == "<|im_end|>"
    assert seen["ids"] == json.loads((smol / "prompts.json").read_text())
    assert seen["chat"].endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    # In and out again: nothing changes any more.
    imports.write(huggingface.Directory(tmp_path / "smol" / "hf"), tmp_path / "again")
    exports.write(tmp_path / "again", tmp_path / "out", shard_bytes=10**8)
    assert_same_tensors(tmp_path / "smol" / "hf", tmp_path / "out")
    for file in (tmp_path / "smol" / "hf").iterdir():
        if file.name != "README.md":
            assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name
    assert store.read_info(tmp_path / "again")["model"]["compute_dtype"] == "bfloat16"
