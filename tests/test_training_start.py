"""How a phase starts: what is refused, and that deciding ahead of time gives what the checkpoints give."""

import dataclasses
import itertools
from pathlib import Path

import jax.numpy as jnp
import pytest
from chat_checks import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_loop import after, phase
from test_training_loop import files as files  # a fixture

from msm_jax.checkpoints import store
from msm_jax.data.config import ChatConfig
from msm_jax.data.templates import DEFAULT_TEMPLATE, ChatTemplate
from msm_jax.errors import InputError
from msm_jax.models.lora import LoraConfig
from msm_jax.models.presets import preset
from msm_jax.training import chat, origin, start
from msm_jax.training.chat import PhaseTemplate
from msm_jax.training.config import InitConfig
from msm_jax.training.start import Parent

LORA, WIDER = LoraConfig(3, 6.0), LoraConfig(4, 6.0)
QWEN25, QWEN3 = (str(TEMPLATES / f"{name}.jinja") for name in ("qwen2_5", "qwen3"))
MODEL = preset("mini-0.3m")
TOTALS = {"tokens": 1}


# A property: a chain that is decided ahead of time starts as one whose checkpoints are there.

VARIABLES = st.sampled_from([{}, {"enable_thinking": False}, {"enable_thinking": True, "names": ("a", "b")}])
LATER = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["params", "params", "state"]),
        "steps": st.integers(1, 4),
        "lora": st.sampled_from([None, LORA, LORA, WIDER]),
        "adapter": st.sampled_from(["continue", "continue", "merge", "stack"]),
        "base_dtype": st.sampled_from(["float32", "bfloat16"]),
        "base": st.booleans(),
        "chat_template": st.sampled_from(["", "", QWEN25, QWEN3]),
        "replace_chat_template": st.booleans(),
        "variables": VARIABLES,
        "model_overrides": st.sampled_from([{}, {"remat": "full"}]),
        "seq_len": st.sampled_from([32, 32, 32, 4096]),
    }
)
FIRST = st.fixed_dictionaries({"chat_template": st.sampled_from(["", QWEN25]), "variables": VARIABLES})


def later(files, checkpoint, root, mode, base, variables, seq_len, **fields):
    """A phase after another; None where its settings contradict themselves."""
    data = {"seq_len": seq_len, "chat": ChatConfig(variables=variables)}
    try:
        config = after(files, checkpoint, mode, data=data)
        init = dataclasses.replace(config.init, base=str(root) if base else "")
        return dataclasses.replace(config, init=init, **fields)
    except InputError:
        return None


def outcome(decide):
    """What `decide` returns, or the text of its refusal."""
    try:
        return decide()
    except InputError as error:
        return str(error)


def write(found, config, run):
    """The checkpoint that a phase writes, but for its arrays."""
    path = run / "checkpoints" / str(config.steps)
    store.save(path, {"step": jnp.int32(0)}, origin.checkpoint_info(found, config, path, config.steps, "f", TOTALS),
               found.assets)  # fmt: skip
    return path


def agree(ahead, real):
    """Whether a decision made ahead of time is that of an `Origin`."""
    assert (ahead.model, ahead.tokenizer.sha256) == (real.model, real.tokenizer.sha256)
    assert (ahead.chat.template, ahead.chat.replaced_sha256) == (real.template, real.replaced_template_sha256)
    assert (ahead.chat.notices, ahead.assets) == (real.notices, real.assets)
    assert ahead.adapters == (() if real.stack is None else real.stack.adapters)
    assert ahead.base_dtype == ("" if real.stack is None else real.stack.base.dtype)
    assert (ahead.adapter, ahead.beside) == (real.adapter, real.beside)


COUNT = itertools.count()


@settings(max_examples=60)
@given(first=FIRST, rest=st.lists(LATER, min_size=1, max_size=4))
def test_a_chain_decided_ahead_of_time_starts_as_its_checkpoints_say(files, tmp_path_factory, first, rest):
    root = tmp_path_factory.getbasetemp() / f"chain{next(COUNT)}"
    variables = ChatConfig(variables=first["variables"])
    config = phase(files, steps=2, chat_template=first["chat_template"], data={"chat": variables})
    known, path = origin.read(config), None
    for number, fields in enumerate([None, *rest]):
        if fields is not None:
            made = later(files, path, root / "0", **fields)
            if made is None:
                continue
            config = made
        ahead = outcome(lambda: start.decide(config, known, chat.read(config.chat_template)))  # noqa: B023
        real = outcome(lambda: origin.find(config, root / "none"))  # noqa: B023
        if isinstance(ahead, str) or isinstance(real, str):
            assert ahead == real
            continue
        agree(ahead, real)
        path = write(real, config, root / str(number))
        known = ahead.checkpoint(str(path), config.steps)


def test_a_chain_through_every_policy_is_decided_ahead_of_time(files, tmp_path):
    """Holds the property above for one long chain, in which no phase is refused."""
    config = phase(files, steps=2)
    known, seen = origin.read(config), []
    steps = [
        {}, {"lora": LORA}, {"lora": LORA}, {"lora": WIDER, "adapter": "stack", "base_dtype": "float32"},
        {"lora": LORA, "adapter": "merge"}, {"chat_template": QWEN3, "replace_chat_template": True, "lora": LORA},
        {"adapter": "merge"}, {"model_overrides": {"remat": "dots"}},
    ]  # fmt: skip
    for number, fields in enumerate(steps):
        if number:
            config = dataclasses.replace(after(files, tmp_path / str(number - 1)), **fields)
        ahead = start.decide(config, known, chat.read(config.chat_template))
        real = origin.find(config, tmp_path / "none")
        known = ahead.checkpoint(str(write(real, config, tmp_path / str(number))), config.steps)
        agree(ahead, real)
        seen.append([(layer.config.rank, layer.merged) for layer in ahead.adapters])
    once, three = [(3, False)], [(3, True), (4, True), (3, False)]
    assert seen == [[], once, once, [(3, False), (4, False)], three, three, [], []]
    assert ahead.chat.template.source == Path(QWEN3).read_text() and ahead.model.remat == "dots"
    assert ahead.chat.replaced_sha256 == ""


def test_a_chain_of_settings_is_decided_from_its_first_parent(files, tmp_path):
    shared = after(files, "parent")
    configs = [
        phase(files),
        dataclasses.replace(shared, lora=LORA, data=data_of(shared, {"a": 1, "b": 1})),
        dataclasses.replace(shared, lora=LORA, adapter="stack", chat_template=QWEN3, replace_chat_template=True),
        dataclasses.replace(shared, adapter="merge", data=data_of(shared, {"b": 2})),
    ]
    found = start.chain(configs, origin.read(configs[0]))
    assert found.adapters == () and found.model.vocab_size == 512
    assert found.chat.template == ChatTemplate(Path(QWEN3).read_text(), {"a": 1, "b": 2})
    assert [notice.split(",")[0] for notice in found.chat.notices] == ["data.chat.variables.b = 2"]
    with pytest.raises(InputError, match=r"^lora is not set, but the checkpoint of tiny holds an adapter"):
        start.chain([*configs[:2], shared], origin.read(configs[0]))


def data_of(config, variables):
    return dataclasses.replace(config.data, chat=ChatConfig(variables=variables))


# What is refused, and what is not known to be wrong.


def known(**changes):
    return Parent(**{"name": "base", "model": MODEL, "adapters": (), "step": 5} | changes)


def stacked(*configs):
    return tuple(start.decide(after_files(lora=config), known()).adapters[0] for config in configs)


def after_files(mode="params", base="", **fields):
    return dataclasses.replace(after(Path("absent"), "parent"), init=InitConfig(mode, "parent", base), **fields)


OLD = PhaseTemplate(ChatTemplate(DEFAULT_TEMPLATE))
NEW = {"chat_template": "new.jinja"}


@pytest.mark.parametrize(
    ("config", "found", "message"),
    [
        ({}, {"adapters": (LORA,)}, r'^lora is not set, but base holds an adapter.*adapter = "merge"'),
        ({"lora": WIDER}, {"adapters": (LORA,)}, r"^lora.rank = 4, but the adapter in base has 3; .*stack"),
        ({"lora": LORA, "mode": "state"}, {}, r'^init.mode = "state", but base holds no adapter whose state'),
        ({"base": "b"}, {}, r"^init.base is set, but base holds no adapter"),
        ({"mode": "state", "steps": 5}, {}, r"^steps = 5, but base has already done 5"),
        ({"data": {"seq_len": 513}}, {}, r"^data.seq_len = 513 is above .*max_position_embeddings = 512; lower it"),
        (NEW, {"chat": OLD}, r"^chat_template new.jinja .* base was trained with .*set replace_chat_template"),
        # What is not known refuses nothing.
        ({}, {"adapters": None}, None),
        ({"lora": LORA, "mode": "state"}, {"adapters": None}, None),
        ({"base": "b"}, {"adapters": None}, None),
        ({"mode": "state", "steps": 5}, {"step": None}, None),
        ({"data": {"seq_len": 513}}, {"model": None}, None),
        (NEW, {}, None),
        (NEW, {"chat": PhaseTemplate(None)}, None),
        (NEW | {"replace_chat_template": True}, {"chat": OLD}, None),
    ],
)
def test_what_is_known_to_be_wrong_is_refused_and_nothing_else(config, found, message):
    fields = dict(config)
    if "data" in fields:
        fields["data"] = dataclasses.replace(after_files().data, **fields["data"])
    if found.get("adapters"):
        found = {"adapters": stacked(*found["adapters"])}
    if message is None:
        start.decide(after_files(**fields), known(**found), "new")
        return
    with pytest.raises(InputError, match=message):
        start.decide(after_files(**fields), known(**found), "new")


def test_what_is_not_known_stays_unknown_until_a_phase_says_it():
    first = start.decide(after_files(), Parent("base"))
    assert (first.model, first.tokenizer, first.chat, first.adapters) == (None, None, None, ())
    adapted = start.decide(after_files(lora=LORA, **NEW), Parent("base"), "new")
    written = adapted.checkpoint("adapted", 2)
    assert (adapted.adapter, adapted.chat.template.source) == (LORA, "new")
    for config, message in (({}, "^lora is not set"), ({"lora": WIDER}, "^lora.rank"), ({"lora": LORA}, None)):
        if message is None:
            assert start.decide(after_files(**config), written).adapters == adapted.adapters
            continue
        with pytest.raises(InputError, match=message):
            start.decide(after_files(**config), written)
    with pytest.raises(InputError, match=r"^chat_template other.jinja"):
        start.decide(after_files(lora=LORA, chat_template="other.jinja"), written, "other")
    # A file that is not written yet may hold what the checkpoint has.
    assert start.decide(after_files(lora=LORA, chat_template="other.jinja"), written).chat is None


def test_a_tokenizer_that_is_still_to_be_trained_decides_size_and_template(files):
    config = phase(files, model_overrides={})
    found = start.decide(config, start.of_new_tokenizer(384))
    assert (found.model.vocab_size, found.tokenizer, found.assets) == (384, None, {})
    trained = start.decide(config, origin.read(config))
    assert found.chat == trained.chat and found.model == trained.model
    with pytest.raises(InputError, match=r"^chat_template new.jinja .* tiny was trained with"):
        start.decide(after_files(**NEW), found.checkpoint("tiny", 9), "new")
