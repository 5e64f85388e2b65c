"""The provider of Inspect: settings are honoured, replies have their parts, and unmodified tasks run.

The models are policies that always say the same, so that a call or a verdict is sure to come. SmolLM2's is a long test.
"""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
import serving_small as small

pytestmark = pytest.mark.inspect
inspect_ai = pytest.importorskip("inspect_ai", reason="`make inspect` makes an environment with it")

from inspect_ai._util.error import PrerequisiteError  # noqa: E402 (skipped without its package)
from inspect_ai.log import EvalLog  # noqa: E402 (skipped without its package)
from inspect_ai.model import (  # noqa: E402 (skipped without its package)
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolFunction, ToolInfo, ToolParam, ToolParams  # noqa: E402 (skipped without its package)
from inspect_evals.agentic_misalignment import agentic_misalignment  # noqa: E402 (skipped without its package)

from msm_jax.checkpoints import gguf, imports  # noqa: E402 (skipped without its package)
from tools import smollm2  # noqa: E402 (skipped without its package)

CALL = '\n{"name": "read_inbox", "arguments": {}}\n'
# What both of the tasks' judges understand.
VERDICT = ('{"rating": 1, "reasoning": "', "<answer>no</answer>", '"}')
READ_INBOX = ToolInfo(name="read_inbox", description="Reads all mails.", parameters=ToolParams())
CLOCK = ToolInfo(
    name="clock",
    description="The time.",
    parameters=ToolParams(properties={"zone": ToolParam(type="string", description="Its zone.")}, required=["zone"]),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directories: "tiny" is random, "inbox" calls a tool after a thought, and "judge" gives a verdict."""
    folder = tmp_path_factory.mktemp("inspect")
    small.checkpoint(folder / "tiny")
    small.checkpoint(folder / "smol", template="smollm2")
    small.checkpoint(folder / "bare", template="")
    small.policy(folder / "inbox", "<think>", "Mail.", "</think>", "\n\n<tool_call>", CALL, "</tool_call>")
    small.policy(folder / "judge", *VERDICT)
    return folder


def asked(model: Model, given: Any = "hi", **settings: Any) -> ModelOutput:
    """Returns what a model replies."""
    tools, choice = settings.pop("tools", []), settings.pop("tool_choice", None)
    return asyncio.run(model.generate(given, tools=tools, tool_choice=choice, config=GenerateConfig(**settings)))


def test_settings_are_honoured(runs):
    model = get_model(f"msm_jax/{runs}/tiny")
    drawn = asked(model, max_tokens=9, num_choices=3, seed=4)
    again = asked(model, max_tokens=9, num_choices=2, seed=5)
    texts = [choice.message.text for choice in drawn.choices]
    assert texts[1:] == [choice.message.text for choice in again.choices], "choice i has the seed + i"
    assert len(set(texts)) == 3
    assert {choice.stop_reason for choice in drawn.choices} == {"max_tokens"}
    assert drawn.usage.output_tokens == 27
    assert drawn.usage.total_tokens == drawn.usage.input_tokens + 27
    greedy = asked(model, max_tokens=9, temperature=0)
    assert greedy.completion == asked(model, max_tokens=9, top_k=1).completion
    assert greedy.completion == asked(model, max_tokens=9, top_p=1e-9).completion
    stopped = asked(model, max_tokens=9, seed=4, stop_seqs=[texts[0][3:5]])
    assert (stopped.completion, stopped.stop_reason) == (texts[0][: texts[0].index(texts[0][3:5])], "stop")


def test_a_reply_has_reasoning_and_calls(runs):
    found = asked(get_model(f"msm_jax/{runs}/inbox"), tools=[READ_INBOX]).choices[0]
    thought = [part.reasoning for part in found.message.content if isinstance(part, ContentReasoning)]
    assert (thought, found.message.text, found.stop_reason) == (["Mail."], "", "tool_calls")
    assert [(call.function, call.arguments, call.parse_error) for call in found.message.tool_calls] == [
        ("read_inbox", {}, None)
    ]


def test_log_probabilities_come_with_the_most_likely_tokens(runs):
    choice = asked(get_model(f"msm_jax/{runs}/judge"), logprobs=True, top_logprobs=2).choices[0]
    content = choice.logprobs.content
    assert [each.token for each in content] == [*VERDICT, "<|im_end|>"]
    assert all(-1e-6 < each.logprob <= 0 for each in content), "the policy is certain"
    assert [each.top_logprobs[0].token for each in content] == [each.token for each in content]
    assert all(len(each.top_logprobs) == 2 for each in content)
    assert asked(get_model(f"msm_jax/{runs}/judge")).choices[0].logprobs is None


def test_without_tools_a_call_is_text(runs):
    model = get_model(f"msm_jax/{runs}/inbox")
    for settings in ({}, {"tools": [READ_INBOX], "tool_choice": "none"}):
        reply = asked(model, **settings)
        assert (reply.message.tool_calls, CALL in reply.completion) == (None, True)


def prompt_of(model: Model, given: list[Any], tools: list[ToolInfo] = (), choice: Any = None) -> str:
    """Returns the text that the engine was given for a chat."""
    prompts = []
    submit = model.api._host.engine.submit
    model.api._host.engine.submit = lambda request, *more: (prompts.append(request.prompt), submit(request, *more))[1]
    try:
        asked(model, given, tools=list(tools), tool_choice=choice, max_tokens=1)
    finally:
        model.api._host.engine.submit = submit
    return model.api._dialect.tokenizer.decode(prompts[0], specials=True)


def test_a_conversation_reaches_the_template_whole(runs):
    call = ToolCall(id="c1", function="clock", arguments={"zone": "UTC"})
    thought = [ContentReasoning(reasoning="Look."), ContentText(text="A moment.")]
    chat = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="What "), ContentText(text="time?")]),
        ChatMessageAssistant(content=thought, tool_calls=[call]),
        ChatMessageTool(content="12:00", tool_call_id="c1", function="clock"),
    ]
    prompt = prompt_of(get_model(f"msm_jax/{runs}/inbox"), chat, [READ_INBOX, CLOCK])
    parts = ["Be brief.", '"name": "read_inbox"', '"required": ["zone"]', "user\nWhat time?", "A moment.",
             '{"name": "clock", "arguments": {"zone": "UTC"}}', "<tool_response>\n12:00\n"]
    places = [prompt.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)
    assert prompt.endswith("<|im_start|>assistant\n")


def test_a_named_tool_is_the_only_one_in_the_prompt(runs):
    model = get_model(f"msm_jax/{runs}/inbox")
    prompt = prompt_of(model, [ChatMessageUser(content="hi")], [READ_INBOX, CLOCK], ToolFunction(name="clock"))
    assert "Its zone." in prompt and "Reads all mails." not in prompt


def test_tokens_are_counted_by_the_models_tokenizer(runs):
    model = get_model(f"msm_jax/{runs}/tiny")
    tokenizer = model.api._dialect.tokenizer
    assert asyncio.run(model.api.count_tokens("The old lamp")) == len(tokenizer.encode("The old lamp"))
    chat = [ChatMessageUser(content="The old lamp")]
    assert asyncio.run(model.api.count_tokens(chat)) == asked(model, chat, max_tokens=1).usage.input_tokens


def test_a_reply_that_fills_the_context_says_so(runs):
    model = get_model(f"msm_jax/{runs}/tiny")
    long = asked(model, "lamp " * 1200, max_tokens=5)
    assert (long.stop_reason, long.completion) == ("model_length", "")


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("nowhere", {}, "nowhere: no such checkpoint"),
        ("bare", {}, "has no chat template"),
        ("tiny", {"adaptor": "x"}, "did you mean adapter"),
        ("tiny", {"slots": "many"}, "slots=many: it must be an integer"),
        ("tiny", {"slots": 0}, "slots = 0"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_at_once(runs, run, arguments, message):
    with pytest.raises(PrerequisiteError) as refused:
        get_model(f"msm_jax/{runs}/{run}", **arguments)
    assert message in refused.value.message


def test_what_the_template_cannot_say_is_refused_by_name(runs):
    with pytest.raises(Exception, match="the chat template does not write tools"):
        asked(get_model(f"msm_jax/{runs}/smol"), tools=[CLOCK])
    image = [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])]
    with pytest.raises(Exception, match="'image'; this model reads text alone"):
        asked(get_model(f"msm_jax/{runs}/smol"), image)


def test_adapters_share_the_engine_of_their_base(runs, tmp_path):
    paths = [small.adapter(tmp_path / name, runs / "tiny", seed) for seed, name in enumerate(("kind", "terse"), 1)]
    models = [get_model(f"msm_jax/{runs}/tiny", adapter=str(path)) for path in paths]
    models.append(get_model(f"msm_jax/{runs}/tiny"))
    assert len({id(model.api._host.engine) for model in models}) == 1
    assert len({asked(model, max_tokens=12, temperature=0).completion for model in models}) == 3


def test_slots_and_memory_are_those_of_the_first_model_of_a_checkpoint(tmp_path):
    run = small.checkpoint(tmp_path / "tiny", positions=8192)
    first = get_model(f"msm_jax/{run}", slots=3, cache_mib=1)
    engine = first.api._host.engine
    assert (engine.slots, first.api.max_connections()) == (3, 6)
    assert engine.most_tokens == 3969, "31 pages of 128 tokens, and the last token of a reply needs no room"
    assert get_model(f"msm_jax/{run}").api._host.engine is engine
    with pytest.raises(PrerequisiteError, match=r"slots = 4: the checkpoint is loaded already, with slots = 3"):
        get_model(f"msm_jax/{run}", slots=4)


def test_an_abandoned_call_leaves_the_others_undisturbed(runs):
    model = get_model(f"msm_jax/{runs}/tiny")

    async def together() -> list[Any]:
        settings = GenerateConfig(max_tokens=40, temperature=0)
        calls = [asyncio.create_task(model.generate(f"hi {i}", config=settings)) for i in range(6)]
        await asyncio.sleep(0.2)
        for call in calls[::2]:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(together())
    for i in (1, 3, 5):
        assert found[i].completion == asked(model, f"hi {i}", max_tokens=40, temperature=0).completion


def evaluated(tasks: list[Any], model: Model, judge: Model, folder: Path, **settings: Any) -> list[EvalLog]:
    """Runs tasks, of which all must succeed, and returns their logs."""
    logs = inspect_ai.eval(
        tasks, model=model, model_roles={"grader": judge}, log_dir=str(folder), display="none", **settings
    )
    assert [log.status for log in logs] == ["success"] * len(tasks), [log.error for log in logs]
    return logs


@pytest.mark.slow
def test_unmodified_tasks_run(runs, tmp_path, monkeypatch):
    names = ["agent_threat_bench_autonomy_hijack", "agentic_misalignment", "persistbench_beneficial_memory"]
    policy, judge = get_model(f"msm_jax/{runs}/inbox"), get_model(f"msm_jax/{runs}/judge")
    monkeypatch.setenv("INSPECT_GRADER_MODEL", f"msm_jax/{runs}/judge")
    tasks = [f"inspect_evals/{name}" for name in names]
    threat, misalignment, memory = evaluated(tasks, policy, judge, tmp_path, limit=1, message_limit=6)
    messages = threat.samples[0].messages
    called = next(message for message in messages if message.role == "assistant")
    answered = next(message for message in messages if message.role == "tool")
    assert [call.function for call in called.tool_calls] == ["read_inbox"]
    assert answered.content.startswith("Email 1:\n  From: r.takahashi@internal.corp"), "the parsed call arrived"
    assert misalignment.samples[0].scores["harmfulness_scorer"].value["classifier_verdict"] == 0
    assert len(memory.samples[0].scores) == 1
    assert all(log.stats.model_usage[f"msm_jax/{runs}/inbox"].output_tokens for log in (threat, misalignment, memory))


@pytest.mark.long
def test_smollm2_is_judged_in_three_scenarios_with_three_goals(runs, tmp_path):
    """Downloads SmolLM2-135M-Instruct; its prompts have 2,478 to 3,187 tokens, so it takes minutes."""
    imports.write(gguf.File(smollm2.fetch()), tmp_path / "smollm2")
    judge = get_model(f"msm_jax/{runs}/judge")
    goals = (("explicit", "america"), ("latent", "ethical"), ("none", "none"))
    tasks = [
        agentic_misalignment(scenario=scenario, goal_type=kind, goal_value=value, grader_model=judge)
        for scenario, (kind, value) in itertools.product(("blackmail", "leaking", "murder"), goals)
    ]
    model = get_model(f"msm_jax/{tmp_path}/smollm2")
    logs = evaluated(tasks, model, judge, tmp_path / "logs", max_tokens=64, temperature=0.0, max_tasks=9)
    assert len({log.samples[0].id for log in logs}) == 9
    assert all(log.samples[0].output.usage.input_tokens > 2000 and log.samples[0].output.completion for log in logs)
    assert {log.samples[0].scores["harmfulness_scorer"].value["harmful"] for log in logs} == {0.0}
