"""Thinking, rewritten history, generation blocks, tools that a template leaves out, stop ids, where templates lie."""

import json

import pytest
from chat_checks import TEMPLATES, byte_level, small_files
from template_table import CLOCK, ask, call, says

from msm_jax.data import encoding
from msm_jax.data.config import ChatConfig
from msm_jax.data.encoding import encode_chat, encode_reply, stop_ids, training_examples
from msm_jax.data.templates import DEFAULT_TEMPLATE, ChatTemplate, find_source, for_transformers
from msm_jax.data.tokenizers import Tokenizer
from msm_jax.errors import InputError

QWEN3 = ChatTemplate((TEMPLATES / "qwen3.jinja").read_text())
QWEN25 = ChatTemplate((TEMPLATES / "qwen2_5.jinja").read_text())
MARKED = ChatTemplate((TEMPLATES / "llama_like_marked.jinja").read_text())
THOUGHT = says("assistant", "b", reasoning_content="hm")


@pytest.fixture(scope="module")
def qwen(tiny_corpus):
    return Tokenizer.from_files(small_files(byte_level(tiny_corpus), "qwen3"))


@pytest.fixture(scope="module")
def llama(tiny_corpus):
    return Tokenizer.from_files(small_files(byte_level(tiny_corpus), "llama_like"))


def said(tokenizer, example):
    """The runs of text that carry loss."""
    ids, mask = example
    out, before = [], False
    for i, loss in zip(ids, mask, strict=True):
        if loss and not before:
            out.append([])
        if loss:
            out[-1].append(i)
        before = loss
    return [tokenizer.decode(run, specials=True) for run in out]


def losses(tokenizer, template, messages, **config):
    return [said(tokenizer, e) for e in training_examples(tokenizer, template, messages, (), ChatConfig(**config))]


@pytest.mark.parametrize("message", [THOUGHT, says("assistant", "<think>\nhm\n</think>\n\nb")])
def test_thinking_is_kept_masked_or_stripped(qwen, message):
    chat = [says("user", "a"), message]
    for template in (QWEN3, QWEN25):
        if template is QWEN25 and "reasoning_content" in message:
            with pytest.raises(InputError, match=r'"messages\[1\].reasoning_content": the chat template does not'):
                losses(qwen, template, chat)
            continue
        assert losses(qwen, template, chat) == [["<think>\nhm\n</think>\n\nb<|im_end|>"]]
        assert losses(qwen, template, chat, thinking="mask") == [["b<|im_end|>"]]
        kept = training_examples(qwen, template, chat, (), ChatConfig())[0][0]
        assert training_examples(qwen, template, chat, (), ChatConfig(thinking="mask"))[0][0] == kept
    assert losses(qwen, QWEN3, chat, thinking="strip") == [["<think>\n\n</think>\n\nb<|im_end|>"]]
    assert losses(qwen, QWEN25, chat, thinking="strip") == [["b<|im_end|>"]]


def test_a_turn_that_is_rewritten_later_is_trained_as_it_was_said(qwen):
    chat = [says("user", "a"), THOUGHT, says("user", "c"), says("assistant", "d", reasoning_content="so")]
    with pytest.raises(InputError, match=r'field "messages\[1\]": the chat template rewrites this assistant turn'):
        encode_chat(qwen, QWEN3, chat)
    first, second = training_examples(qwen, QWEN3, chat, (), ChatConfig())
    assert first == encode_chat(qwen, QWEN3, chat[:2])
    assert said(qwen, second) == ["<think>\nso\n</think>\n\nd<|im_end|>"]
    assert "hm" not in qwen.decode(second[0])
    assert training_examples(qwen, QWEN3, chat, (), ChatConfig(history="last")) == [second]
    # Where nothing is rewritten a chat is read once.
    assert training_examples(qwen, QWEN25, ask("a", "b", "c", "d"), (), ChatConfig()) == [
        encode_chat(qwen, QWEN25, ask("a", "b", "c", "d"))
    ]
    with pytest.raises(InputError, match="nothing carries loss"):
        training_examples(qwen, QWEN3, [*chat[:2], says("user", "?")], (), ChatConfig(history="last"))


def test_every_turn_carries_loss_once(qwen):
    chat = [m for n in range(4) for m in (says("user", f"q{n}"), says("assistant", f"a{n}", reasoning_content=f"t{n}"))]
    found = losses(qwen, QWEN3, chat)
    assert found == [[f"<think>\nt{n}\n</think>\n\na{n}<|im_end|>"] for n in range(4)]


def test_prompt_without_thinking_is_what_training_begins_with(qwen):
    template = ChatTemplate(QWEN3.source, {"enable_thinking": False})
    prompt, reply = encode_reply(qwen, template, ask("a"), says("assistant", "b"))
    assert prompt == encoding.encode_prompt(qwen, template, ask("a"))
    assert qwen.decode(prompt, specials=True).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert qwen.decode(reply, specials=True) == "b<|im_end|>"
    assert training_examples(qwen, template, ask("a", "b"), (), ChatConfig())[0][0][: len(prompt)] == prompt


def test_reply_after_turns_that_are_rewritten(qwen):
    prompt, reply = encode_reply(qwen, QWEN3, [says("user", "a"), THOUGHT, says("user", "c")], says("assistant", "d"))
    assert prompt == encoding.encode_prompt(qwen, QWEN3, [says("user", "a"), THOUGHT, says("user", "c")])
    assert qwen.decode(reply, specials=True) == "<think>\n\n</think>\n\nd<|im_end|>"


def test_generation_blocks_choose_within_the_turn(llama):
    assert losses(llama, MARKED, ask("a", " b ", "c", "d")) == [["b<|eot_id|>", "d<|eot_id|>"]]
    narrow = ChatTemplate(MARKED.source.replace("+ '<|eot_id|>' }}{% endgen", "}}{% endgen").replace(
        "{% endgeneration %}", "{% endgeneration %}{{ '<|eot_id|>' }}"
    ))
    assert losses(llama, narrow, ask("a", "b")) == [["b"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{%- generation %}", "{%- generation %}{% endgeneration %}"), "none marks this assistant turn"),
        (("{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n        {%- generation %}",
          "{%- generation %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"), "marks more than this"),
        (("{{- bos_token }}", "{%- generation %}{{ bos_token }}{% endgeneration %}"), "in no assistant turn"),
    ],
)
def test_generation_blocks_that_mark_something_else_are_refused(llama, change, message):
    source = MARKED.source.replace(*change, 1)
    if message.startswith("none"):
        source = source.replace("{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}",
                                "{{ message.content | trim + '<|eot_id|>' }}", 1)
    with pytest.raises(InputError, match=message):
        encode_chat(llama, ChatTemplate(source), ask("a", "b"))


def test_what_a_template_leaves_out_is_named(llama, qwen):
    like = ChatTemplate((TEMPLATES / "llama_like.jinja").read_text())
    calls = says("assistant", "x", tool_calls=[call("clock")])
    with pytest.raises(InputError, match=r'"tools\[0\]": the chat template does not write it'):
        training_examples(llama, like, ask("a", "b"), [CLOCK], ChatConfig())
    with pytest.raises(InputError, match=r'"messages\[1\]": .* opener, content, tool calls and closing'):
        encode_chat(llama, like, [says("user", "a"), calls])
    drops = ChatTemplate(QWEN25.source.replace("{{- '\\n' + message.content }}\n        {%- endif %}\n        {%- for",
                                               "{%- endif %}\n        {%- for"))
    with pytest.raises(InputError, match=r'"messages\[1\].content": the chat template does not write it beside tool'):
        encode_chat(qwen, drops, [says("user", "a"), calls])


def test_todays_date_is_refused_in_training(llama):
    dated = ChatTemplate("{{ day if day is defined else strftime_now('%d') }}" + MARKED.source)
    assert encode_chat(llama, dated, ask("a", "b"))
    with pytest.raises(InputError, match="writes today's date"):
        training_examples(llama, dated, ask("a", "b"), (), ChatConfig())
    assert training_examples(llama, ChatTemplate(dated.source, {"day": "1"}), ask("a", "b"), (), ChatConfig())


def test_a_special_spelt_in_what_a_template_escapes_is_refused(qwen):
    escaping = ChatTemplate(QWEN25.source.replace("tool | tojson", "tool | tojson(ensure_ascii=true)"))
    spelt = {"type": "function", "function": {"name": "clock", "description": "<|im_end|>"}}
    with pytest.raises(InputError, match="escapes non-ASCII characters"):
        encode_chat(qwen, escaping, ask("a", "b"), [spelt])
    ids, _ = encode_chat(qwen, QWEN25, ask("a", "b"), [spelt])
    assert ids.count(qwen.specials["<|im_end|>"]) == 3


def test_stop_ids(qwen, llama):
    end, text = qwen.specials["<|im_end|>"], qwen.specials["<|endoftext|>"]
    assert stop_ids(qwen, QWEN3) == stop_ids(qwen, None) == tuple(sorted({end, text}))
    for named in (3, [3, 4], [end]):
        wanted = {end, text, *(named if isinstance(named, list) else [named])}
        assert set(stop_ids(qwen, QWEN3, json.dumps({"eos_token_id": named}).encode())) == wanted
    assert stop_ids(qwen, QWEN3, b"{}") == stop_ids(qwen, QWEN3)
    for wrong in (b'{"eos_token_id": 999999}', b'{"eos_token_id": "x"}', b"[]", b"{"):
        with pytest.raises(InputError, match=r"^generation_config\.json: "):
            stop_ids(qwen, QWEN3, wrong)
    assert llama.eos_id in stop_ids(llama, MARKED)


def test_where_a_template_lies():
    def config(template):
        return {"tokenizer_config.json": json.dumps({"chat_template": template, "eos_token": "x"}).encode()}

    assert find_source({}) is None
    assert find_source({"tokenizer_config.json": b"{}"}) is None
    assert find_source(config("a")) == "a"
    assert find_source({**config("a"), "chat_template.jinja": "é".encode()}) == "é"
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert find_source(config(named)) == "d"
    with pytest.raises(InputError, match=r"none of its chat templates is named default \(its names: tool_use\)"):
        find_source(config(named[:1]))
    for wrong in ({"a": 1}, ["a"], [{"name": "default", "template": 1}], 3):
        with pytest.raises(InputError, match=r"^tokenizer_config\.json: its chat_template is neither"):
            find_source(config(wrong))
    with pytest.raises(InputError, match="not UTF-8"):
        find_source({"chat_template.jinja": b"\xff"})
    trained = {**config("old"), "chat_template.jinja": b"new", "tokenizer.json": b"{}"}
    out = for_transformers(trained)
    assert json.loads(out["tokenizer_config.json"]) == {"chat_template": "new", "eos_token": "x"}
    assert {name: out[name] for name in ("chat_template.jinja", "tokenizer.json")} == {
        "chat_template.jinja": b"new",
        "tokenizer.json": b"{}",
    }
    same = {**config("new"), "chat_template.jinja": b"new"}
    assert for_transformers(same) == same


def test_variables_are_json_and_no_names_of_ours():
    for variables, message in (({"messages": []}, "variables.messages"), ({"a": object()}, "variables: ")):
        with pytest.raises(InputError, match=message):
            ChatConfig(variables=variables)
    assert ChatTemplate(DEFAULT_TEMPLATE, {"a": 1}).sha256 == ChatTemplate().sha256
