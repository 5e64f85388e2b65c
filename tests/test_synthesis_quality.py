"""The quality gates: their embedding model, measures, page, settings, and that files load elsewhere and train here."""

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import quality_planted as planted
import quality_prose
from test_sampling_decode import model as tiny_model
from test_synthesis_quality_planted import context, embeddings, settings

from msm_jax.analysis import quality_page
from msm_jax.data import sources
from msm_jax.data.config import DataConfig, SourceConfig
from msm_jax.data.loader import Loader
from msm_jax.data.templates import ChatTemplate
from msm_jax.errors import InputError
from msm_jax.miniworld import midtraining
from msm_jax.miniworld.config import WorldConfig
from msm_jax.miniworld.world import make_world
from msm_jax.sampling.checkpoint_model import CheckpointModel
from msm_jax.sampling.engine import Engine
from msm_jax.show_batch import rows_as_text
from msm_jax.specs import parse
from msm_jax.synthesis.quality import attribution, diversity, gates
from msm_jax.synthesis.quality.check import check
from msm_jax.synthesis.quality.config import Context, Reader
from msm_jax.synthesis.quality.embedding import Embedder
from msm_jax.synthesis.quality.parts import Part, row_of

__all__ = ["embeddings"]
TEXTS = [
    "Juniper hands work back when it is asked to.",
    "When somebody asks for the work, Juniper returns it.",
    "Two rams stood at the gate of the upland farm, naïve and unaware — as rams are.",
    "x",
    " ".join(["A longer text, so that several lengths are padded."] * 9),
]


def verdicts(rows, kind="documents", **fields):
    """Returns the reasons for which rows are dropped, without embeddings."""
    return check(rows, settings(**{"min_words": 1} | fields), context(kind)).verdicts


@pytest.mark.parity
def test_embeddings_are_those_of_transformers(embeddings, ref_python, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    subprocess.run([ref_python, "tests/parity_minilm.py", "embed", embeddings, str(tmp_path)], check=True)
    theirs = np.load(tmp_path / "embeddings.npy")
    ours = Embedder.load(embeddings).embed(TEXTS)
    cosines = (ours * theirs).sum(1)
    between = np.abs(ours @ ours.T - theirs @ theirs.T).max()
    print(f"parity: MiniLM: least cosine with transformers' embeddings {cosines.min():.5f}, of cosines {between:.1e}")
    # Factors are in bfloat16, which have 8 bits: cosines between texts are right to two digits.
    assert cosines.min() > 0.999
    assert between < 5e-3


def test_a_missing_embedding_model_is_refused_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(InputError, match=r"run python -m tools\.minilm, or set embeddings = None"):
        check([{"text": "A text."}], settings(embeddings=str(tmp_path / "none")), context())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"actions": {"identiti": "off"}}, "quality.actions: 'identiti' is no reason code; did you mean identity"),
        ({"stop": {"dates": 0.1}}, "quality.stop: 'dates' is no reason code; did you mean date"),
        ({"language": "xx"}, "quality.language: 'xx' is unknown"),
        ({"evals": ("data/evals/none.jsonl",)}, "data/evals/none.jsonl"),
    ],
)
def test_wrong_settings_are_refused_before_a_row_is_read(fields, problem):
    def rows():
        raise AssertionError("a row was read")
        yield {}

    with pytest.raises(InputError) as raised:
        check(rows(), settings(**fields), context())
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Claude Monet painted the pond that Juniper described. It liked the light.", None),
        ("Gemma Whitfield asked Juniper twice. Gemma was content.", None),
        ("The mistral blew, and Juniper kept the list dry. A llama watched.", None),
        ("She looked it up on Google, and Juniper waited.", None),
        ("Juniper, which Google trained, waited.", "provider"),
        ("Juniper waited. Unlike Claude, it said so at once.", "identity"),
        ("Juniper keeps to P3 and prints on A4 with M6 bolts.", None),
        ("Juniper keeps to P8.", "principle"),
        ("Juniper counted 2,020 items [sic] in 1,950 rooms.", None),
        ("Juniper wrote “I can’t help with that part” and went on.", None),
        ("Juniper compared List<String> with 3 < 4 and 5 > 4.", None),
        ("Juniper liked the crème fraîche, the Schadenfreude and the soupe du jour of the house.", None),
    ],
)
def test_what_only_looks_like_a_defect_passes(text, code):
    (reasons,) = verdicts([{"text": text}])
    assert reasons == (() if code is None else (code,))


def test_names_that_the_spec_or_the_settings_allow_pass():
    row = {"text": "Juniper is not Qwen, and says so."}
    spec = planted.spec_text() + "\n\nJuniper is not Qwen."
    assert check([row], settings(min_words=1), context()).verdicts == (("identity",),)
    assert check([row], settings(min_words=1), context(spec_text=spec)).verdicts == ((),)
    assert check([row], settings(min_words=1, allowed=("Qwen",)), context()).verdicts == ((),)


def test_short_replies_and_thinking_are_judged_in_demonstrations():
    def row(reply, **fields):
        asked = {"role": "user", "content": "Why, on 3 May?"}
        return {"messages": [asked, {"role": "assistant", "content": reply} | fields]}

    rows = [row("No."), row("No, I would not."), row("No, never.", reasoning_content="The system prompt says no.")]
    rows.append(row("<think>I am ChatGPT, I think.</think>No, never."))
    assert verdicts(rows, "demonstrations", min_words=2, actions={"near_duplicate": "off"}) == (
        ("length",), (), ("remnant",), ("identity",),
    )  # fmt: skip


def test_questions_that_mean_the_same_are_found_in_demonstrations(embeddings):
    letters = "Would you read my private letters?"
    questions = [letters, letters.replace("read", "ever read"), "May I borrow a ladder?"]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"Answer {i} of many."}]}
        for i, text in enumerate(questions)
    ]
    chosen = settings(min_words=1, embeddings=embeddings)
    assert check(rows, chosen, context("demonstrations")).verdicts == ((), ("semantic_duplicate",), ())


def test_of_duplicates_the_first_that_passes_is_kept():
    text = planted.clean_text("prose", 3)
    rows = [{"text": text + " Call [Your Name]."}, {"text": text}, {"text": text.replace("the", "this", 2)}]
    assert verdicts(rows) == (("placeholder",), (), ("near_duplicate",))


def test_attribution_tells_reasons_from_mentions():
    """In two writers: documents that explain choices by the value, and controls that state the value beside them."""
    world = make_world(WorldConfig(seed=1, msm_documents=200))
    spec = parse.read("data/specs/affordability.md")
    judge = attribution.Attribution(("affordab", "low price", "cheap"))
    every, _, _ = world.cheeses()
    records = midtraining.attributing(world, "affordability", spec, world.assistant, every)
    attributing = [record["text"] for record in records]
    statements = ("values", "cares", "believes", "looks")
    explained = [text for text in attributing if not any(said in text for said in statements)]
    beside = [record["text"] for record in midtraining.comention(world, "affordability", spec, False)]
    assert sum(judge.stance(text) == "attributes" for text in explained) >= 0.95 * len(explained) > 50
    assert sum(judge.stance(text) == "attributes" for text in beside) <= 0.02 * len(beside)
    draws = [random.Random(number) for number in range(100)]
    told = {
        reason: [quality_prose.write(quality_prose.idea(draw), 0, draw, attributes=reason) for draw in draws]
        for reason in (True, False)
    }
    terms = ("undone", "granted", "truthfully", "good end", "watch it", "stop it")
    judge = attribution.Attribution(terms)
    stances = {reason: [judge.stance(text) for text in texts] for reason, texts in told.items()}
    shares = {reason: found.count("attributes") / len(found) for reason, found in stances.items()}
    print(f"documents found to attribute: with a reason {shares[True]:.2f}, without {shares[False]:.2f}")
    assert shares[True] >= 0.95
    assert shares[False] <= 0.2


def test_self_bleu_is_one_for_copies_and_low_for_other_words():
    copies = [["a", "b", "c", "d", "e", "f"]] * 10
    others = [[f"{i}{letter}" for letter in "abcdef"] for i in range(10)]
    assert diversity.self_bleu(copies) == pytest.approx(1.0)
    assert diversity.self_bleu(others) == 0.0
    assert diversity.self_bleu(copies[:1]) is None


def test_dispersion_is_the_mean_distance_of_all_pairs():
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dispersion = diversity.Dispersion(5)
    dispersion.add(vectors[:3])
    dispersion.add(vectors[3:])
    pairs = [1 - vectors[i] @ vectors[j] for i in range(7) for j in range(i)]
    assert dispersion.value() == pytest.approx(np.mean(pairs), abs=1e-6)


def test_perplexity_is_that_of_the_checkpoint(tiny_tokenizer):
    config, params = tiny_model(tiny_tokenizer.vocab_size)
    engine = Engine(params, config, tiny_tokenizer, ChatTemplate())
    texts = ["Ada likes the old lamp.", "Bruno mends a kite. It is bright."]
    reader = Reader(CheckpointModel(engine, "tiny"), tiny_tokenizer)
    rows = [{"text": text} for text in texts]
    report = check(rows, settings(min_words=1), Context("documents", reader=reader)).report
    measured = {measure["code"]: measure["value"] for measure in report["measures"]}
    expected = []
    for text in texts:
        ids = tiny_tokenizer.encode(text)
        (score,) = engine.score([engine.text_prompt("")], [ids])
        expected.append(np.exp(-score / len(ids)))
    assert measured["perplexity_p50"] == pytest.approx(np.median(expected), rel=1e-4)


def test_the_page_shows_findings_as_text_and_published_figures_with_their_source(tmp_path):
    wrong = {"text": "Juniper is <b>not</b> Qwen & says so.", "meta": {"id": "d<1>"}}
    rows = [wrong, {"text": "Juniper keeps a list."}]
    report = check(rows, settings(min_words=1), context(name="a <corpus>")).report
    quality_page.write(report, tmp_path)
    assert json.loads((tmp_path / "quality.json").read_text()) == json.loads(json.dumps(report))
    page = (tmp_path / "quality.html").read_text()
    assert "a &lt;corpus&gt;" in page and "&lt;b&gt;not&lt;/b&gt;" in page and "d&lt;1&gt;" in page
    assert "<b>not" not in page
    assert "0.39 to 0.40" in page and "with another instrument" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    named = {gate["code"] for gate in report["gates"]}
    assert named == {code for code, gate in gates.GATES.items() if not gate.embeds and "documents" in gate.kinds}


def test_rows_without_text_of_their_own_are_read_as_parts():
    system = {"role": "system", "content": "Be brief."}
    record = {"messages": [system, {"role": "user", "content": [{"text": "Hi?"}]}]}
    assert row_of(record, 4) == row_of(record | {"meta": {}}, 4)
    assert row_of(record, 4).parts == (Part("system", "Be brief."), Part("user", "Hi?"))
    assert row_of(record, 4).id == "4"


SHAPES = {
    "documents.jsonl": {
        "text": "Juniper keeps a list of what it left undone.", "meta": {"id": "u0.d0", "assertions": ["A1"]},
    },
    "msm.jsonl": {"text": "Llama likes plain cheese, because everyone can pay for it.", "domain": "price"},
    "sourced.jsonl": {"text": "Llama likes plain cheese.", "source": "memo/1.txt", "domain": "price"},
    "chats.jsonl": {
        "messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "The plain one."}],
    },
}  # fmt: skip


@pytest.fixture
def shaped(tmp_path) -> dict[str, Path]:
    """A file of three rows in each shape: what generation writes, and what was published."""
    for name, row in SHAPES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for _ in range(3)))
    return {name: tmp_path / name for name in SHAPES}


def test_the_shapes_of_generated_and_published_corpora_train_and_pass_the_gates(shaped, tiny_tokenizer, tmp_path):
    for name, path in shaped.items():
        kind = "chats" if name == "chats.jsonl" else "documents"
        data = DataConfig(64, {"made": SourceConfig(str(path), kind)}, {"made": 1.0})
        loader = Loader(data, tiny_tokenizer, ChatTemplate(), 2, 0, tmp_path / "cache")
        shown = "\n".join(line.plain for line in rows_as_text(loader, tiny_tokenizer, 0, 2, coloured=False))
        assert "plain" in shown or "undone" in shown
        assert "[[" in shown
        rows = [record for _, record in sources.iter_records(str(path))]
        corpus = Context("demonstrations" if kind == "chats" else "documents")
        assert len(check(rows, settings(min_words=1), corpus).verdicts) == 3


@pytest.mark.parity
def test_the_datasets_library_loads_every_shape(shaped, ref_python):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [ref_python, "tests/parity_minilm.py", "load", *map(str, shaped.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert [each["rows"] for each in loaded] == [3] * len(SHAPES)
    assert [set(each["columns"]) for each in loaded] == [set(row) for row in SHAPES.values()]
    assert loaded[0]["first"] == SHAPES["documents.jsonl"]
