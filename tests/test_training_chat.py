"""The chat template goes from checkpoint to checkpoint; a phase that replaces it says so and both hashes stay."""

import json
import logging

import pytest
from chat_checks import TEMPLATES, byte_level, small_files

from msm_jax.checkpoints import manifest, store
from msm_jax.data.config import ChatConfig, DataConfig, SourceConfig
from msm_jax.data.templates import DEFAULT_TEMPLATE, ChatTemplate
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError
from msm_jax.sampling.engine import Engine
from msm_jax.training import loop, origin
from msm_jax.training.config import InitConfig, OptimizerConfig, PhaseConfig

MODEL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "intermediate_size": 16}
QWEN25 = (TEMPLATES / "qwen2_5.jinja").read_text()
QWEN3 = (TEMPLATES / "qwen3.jinja").read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_corpus):
    """documents.jsonl, chats.jsonl, and model/ as a Hugging Face directory has its tokenizer files."""
    root = tmp_path_factory.mktemp("files")
    (root / "documents.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_corpus[:40]))
    record = {"messages": [{"role": "user", "content": "Ada?"}, {"role": "assistant", "content": "old cheese"}]}
    (root / "chats.jsonl").write_text((json.dumps(record) + "\n") * 8)
    (root / "model").mkdir()
    given = small_files(byte_level(tiny_corpus), "qwen2_5")
    given["generation_config.json"] = json.dumps({"eos_token_id": [3, 4]}).encode()
    for name, content in given.items():
        (root / "model" / name).write_bytes(content)
    (root / "qwen3.jinja").write_text(QWEN3)
    return root


def phase(files, source, **changes):
    sources = {"s": SourceConfig(str(files / f"{source}.jsonl"), source)}
    data = DataConfig(96, sources, {"s": 1.0}, **changes.pop("data", {}))
    optimizer = OptimizerConfig(learning_rate=1e-3)
    return PhaseConfig("tiny", 1, 2, 2, data, optimizer, **changes)


def scratch(files, **changes):
    more = {"preset": "mini-0.3m", "model_overrides": MODEL, "tokenizer": str(files / "model")}
    return phase(files, "documents", **(more | changes))


def after(files, run, **changes):
    return phase(files, "chats", init=InitConfig("params", str(run)), **changes)


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "base"
    loop.train(scratch(files), run)
    return run


def test_files_of_the_tokenizer_directory_travel(files, base, tmp_path):
    assets = store.read_assets(store.resolve(base))
    assert assets == {path.name: path.read_bytes() for path in (files / "model").iterdir()}
    loop.train(after(files, base), tmp_path / "sft")
    checkpoint = store.resolve(tmp_path / "sft")
    assert store.read_assets(checkpoint) == assets
    info = store.read_info(checkpoint)
    assert info["template_sha256"] == ChatTemplate(QWEN25).sha256
    assert info["replaced_template_sha256"] == manifest.read(tmp_path / "sft").replaced_template_sha256 == ""
    engine = Engine.from_checkpoint(checkpoint)
    ends = {engine.tokenizer.specials[piece] for piece in ("<|im_end|>", "<|endoftext|>")}
    assert set(engine.stop_ids) == ends | {3, 4}
    assert engine.text_prompt("") == [engine.tokenizer.document_end_id]
    assert engine.text_prompt("Ada") == engine.tokenizer.encode("Ada")


def test_a_replaced_template_is_asked_for_said_and_recorded(files, base, tmp_path, caplog):
    new = str(files / "qwen3.jinja")
    with pytest.raises(InputError, match=r"is not the one that .* was trained with .*set replace_chat_template"):
        loop.train(after(files, base, chat_template=new), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    config = after(files, base, chat_template=new, replace_chat_template=True)
    with caplog.at_level(logging.WARNING):
        loop.train(config, tmp_path / "sft")
    old, trained = ChatTemplate(QWEN25).sha256, ChatTemplate(QWEN3).sha256
    said = [record.getMessage() for record in caplog.records if "CHAT TEMPLATE CHANGES" in record.getMessage()]
    assert len(said) == 1 and old[:12] in said[0] and trained[:12] in said[0]
    recorded = manifest.read(tmp_path / "sft")
    assert (recorded.template_sha256, recorded.replaced_template_sha256) == (trained, old)
    checkpoint = store.resolve(tmp_path / "sft")
    info = store.read_info(checkpoint)
    assert (info["template_sha256"], info["replaced_template_sha256"]) == (trained, old)
    assert store.read_assets(checkpoint)["chat_template.jinja"].decode() == QWEN3
    assert Engine.from_checkpoint(checkpoint).template.source == QWEN3
    # The run goes on with what it began with, and the next phase inherits it without a word.
    resumed = origin.find(config, tmp_path / "sft")
    assert (resumed.template.source, resumed.replaced_template_sha256) == (QWEN3, old)
    inherited = origin.find(after(files, tmp_path / "sft"), tmp_path / "next")
    assert (inherited.template.source, inherited.notices) == (QWEN3, ())


def test_variables_are_inherited_recorded_and_changed_aloud(files, base, tmp_path):
    def chat_config(thinking):
        # Lists of a config come as tuples.
        return {"data": {"chat": ChatConfig(variables={"enable_thinking": thinking, "names": ("a", "b")})}}

    recorded = {"enable_thinking": False, "names": ["a", "b"]}
    loop.train(after(files, base, **chat_config(False)), tmp_path / "sft")
    assert store.read_info(store.resolve(tmp_path / "sft"))["chat_variables"] == recorded
    assert Engine.from_checkpoint(tmp_path / "sft").template.variables == recorded
    for config in (after(files, tmp_path / "sft"), after(files, tmp_path / "sft", **chat_config(False))):
        next_phase = origin.find(config, tmp_path / "next")
        assert (next_phase.template.variables, next_phase.notices) == (recorded, ())
    changed = origin.find(after(files, tmp_path / "sft", **chat_config(True)), tmp_path / "next")
    assert changed.template.variables == {**recorded, "enable_thinking": True}
    assert ["enable_thinking" in notice for notice in changed.notices] == [True]
    engine = Engine.from_checkpoint(tmp_path / "sft", chat_variables={"enable_thinking": True})
    assert engine.template.variables == {**recorded, "enable_thinking": True}


def test_a_model_without_a_template(files, tmp_path):
    """Documents train, chats are refused until a phase brings a template, for which nothing is replaced."""
    assets = {name: (files / "model" / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    directory = tmp_path / "model"
    directory.mkdir()
    for name, content in assets.items():
        (directory / name).write_bytes(content)
    loop.train(scratch(files, tokenizer=str(directory)), tmp_path / "base")
    checkpoint = store.resolve(tmp_path / "base")
    assert store.read_assets(checkpoint) == assets
    with pytest.raises(InputError, match=r"chats\.jsonl: holds chats, but the checkpoint has no chat template"):
        loop.train(after(files, tmp_path / "base"), tmp_path / "sft")
    engine = Engine.from_checkpoint(checkpoint)
    with pytest.raises(InputError, match="no chat template"):
        engine.chat_prompt([{"role": "user", "content": "Ada?"}])
    found = origin.find(after(files, tmp_path / "base", chat_template=str(files / "qwen3.jinja")), tmp_path / "sft")
    assert (found.template.source, found.replaced_template_sha256, found.notices) == (QWEN3, "", ())


def test_template_of_a_phase_from_scratch(files, tiny_tokenizer, tmp_path):
    def source(directory, file=""):
        found = origin.find(scratch(files, tokenizer=str(directory), chat_template=str(file)), tmp_path / "none")
        return found.template and found.template.source

    for name, given in (("ours", tiny_tokenizer.files()), ("bare", Tokenizer.load(files / "model").files())):
        (tmp_path / name).mkdir()
        for file, content in given.items():
            (tmp_path / name / file).write_bytes(content)
    assert source(files / "model") == QWEN25
    assert source(files / "model", files / "qwen3.jinja") == QWEN3
    assert source(tmp_path / "ours") == DEFAULT_TEMPLATE
    assert source(tmp_path / "bare") is None
    named = tmp_path / "bare" / "additional_chat_templates"
    named.mkdir()
    (named / "rag.jinja").write_text("x")
    with pytest.raises(InputError, match=r"additional_chat_templates: none .* is named default \(its names: rag\)"):
        source(tmp_path / "bare")
    assert source(tmp_path / "bare", files / "qwen3.jinja") == QWEN3
    with pytest.raises(InputError, match="cannot be read"):
        source(tmp_path / "bare", tmp_path / "missing.jinja")


def test_replace_needs_something_to_replace(files):
    for changes in ({}, {"chat_template": str(files / "qwen3.jinja"), "init": InitConfig()}):
        with pytest.raises(InputError, match="replace_chat_template needs"):
            scratch(files, replace_chat_template=True, **changes)


def test_a_template_that_raises_is_refused_by_chat(files, base, tmp_path):
    bad = tmp_path / "bad.jinja"
    bad.write_text("{{ raise_exception('no\\nassistants') }}")
    with pytest.raises(InputError) as refusal:
        loop.train(after(files, base, chat_template=str(bad), replace_chat_template=True), tmp_path / "run")
    assert str(refusal.value).startswith(f"{files / 'chats.jsonl'}:1: {bad}: no assistants; correct")
    assert not (tmp_path / "run").exists()
