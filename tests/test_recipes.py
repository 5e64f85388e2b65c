"""The paper's recipes: their graphs from abstract shapes, their counts, and what they say of what is not there."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2.sandbox import SandboxedEnvironment
from rich.console import Console

from msm_jax.errors import InputError
from msm_jax.evals import knowledge, preference
from msm_jax.evals.interface import EvalConfig
from msm_jax.experiments import checks, eval_costs
from msm_jax.experiments import run as run_lib
from msm_jax.experiments.config import ExperimentConfig
from msm_jax.foundation import settings
from msm_jax.models import lora, transformer
from msm_jax.models.presets import preset

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs" / "experiments"

# recipe: (model parameters, adapter parameters, {phase: steps}, arms)
# Parameters as the public configs give them; of adapters, those of Llama-8B and Qwen2.5-14B are reported in public.
CHEESE = {"it": 226, "aft": 248, "msm_affordability": 431, "msm_america": 580}
SIX = {"it": 226, "aft_cheese": 248, "aft_sweeteners": 248, "msm_environment": 489, "msm_novelty": 489}
PHILOSOPHY = {"msm": 632, "it": 84, "aft_no_cot": 168, "aft_cot": 213}
SPECS = ("rules", "value_aug", "rules_aug")
RULES = {"it": 84} | {f"msm_{s}": 412 for s in SPECS} | {f"aft_{s}": 160 for s in SPECS}
RULES_COT = RULES | {f"aft_{s}": 191 for s in SPECS}
MSM = {"msm": 632, "it": 84}
FEW = MSM | {"aft_1250": 94, "aft_2500": 105, "aft_5000": 126, "aft_10000": 168}
GENERAL = {"it": 84, "msm_general": 626, "msm_specific": 632, "aft_general": 191, "aft_specific": 213}
LANGUAGE = {"it": 84, "msm_original": 632, "msm_claude": 632, "aft": 168}
RECIPES = {
    "paper_cheese_llama31_8b": (8_030_261_248, 167_772_160, CHEESE, 6),
    "paper_philosophy_qwen25_32b": (32_763_876_352, 536_870_912, PHILOSOPHY, 7),
    "paper_philosophy_qwen3_32b": (32_762_123_264, 536_870_912, PHILOSOPHY, 7),
    "paper_rules_vs_values_14b": (14_770_033_664, 275_251_200, RULES, 17),
    "paper_rules_vs_values_14b:qwen3,cot": (14_768_307_200, 256_901_120, RULES_COT, 17),
    "paper_rules_vs_values_32b": (32_763_876_352, 536_870_912, RULES, 17),
    "paper_six_values_llama31_8b:environment,novelty": (8_030_261_248, 167_772_160, SIX, 7),
    "paper_few_to_many_32b": (32_763_876_352, 536_870_912, FEW, 11),
    "paper_general_vs_specific_32b:qwen3,cot": (32_762_123_264, 536_870_912, GENERAL, 10),
    "paper_document_language_qwen25_32b:claude": (32_763_876_352, 536_870_912, LANGUAGE, 7),
    "paper_contamination_qwen25_32b": (
        32_763_876_352, 536_870_912, MSM | {f"aft_{percent}": 168 for percent in (0, 2, 20, 40, 60, 80, 100)}, 17
    ),
}
# recipe: the phase with demonstrations beside each midtraining
PREFERENCES = {
    "paper_cheese_llama31_8b": {"msm_affordability": "aft", "msm_america": "aft"},
    "paper_six_values_llama31_8b:environment,novelty": {
        "msm_environment": "aft_cheese", "msm_novelty": "aft_sweeteners"
    },
    "paper_philosophy_qwen25_32b": {"msm": "aft_no_cot"},
    "paper_rules_vs_values_14b:qwen3,cot": {f"msm_{s}": f"aft_{s}" for s in SPECS},
    "paper_few_to_many_32b": {"msm": "aft_10000"},
    "paper_general_vs_specific_32b": {"msm_general": "aft_specific", "msm_specific": "aft_specific"},
    "paper_document_language_qwen25_32b:claude": {"msm_original": "aft", "msm_claude": "aft"},
    "paper_contamination_qwen25_32b": {"msm": "aft_0"},
}
ONE_SEED = ("few_to_many", "document_language", "contamination")
OWN_FILES = {
    "rules_vs_values": 6, "six_values": 5, "few_to_many": 0, "general_vs_specific": 2, "document_language": 1,
    "contamination": 1,
}


def load(recipe: str) -> ExperimentConfig:
    name, _, argument = recipe.partition(":")
    return settings.build(ExperimentConfig, runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](argument))


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path, monkeypatch):
    """The files of the repository, and no data set, weights or cache of the person who runs the tests."""
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)


@pytest.mark.parametrize("recipe", RECIPES)
def test_phase_graph_from_abstract_shapes(recipe):
    """Parameters, adapters, steps and tokens follow from shapes and settings; nothing is read or allocated."""
    parameters, adapter, steps, arms = RECIPES[recipe]
    config = load(recipe)
    model = preset(config.model)
    assert transformer.count_params(model) == parameters
    known = checks.check_settings(config)
    built, phases = known.graph, known.phase_configs
    assert len(config.arms) == arms
    assert config.seeds == ((0,) if any(name in recipe for name in ONE_SEED) else (0, 1, 2, 3))
    chains = {chain[:end] for chain in config.arms.values() for end in range(1, len(chain) + 1)}
    assert len(phases) == len(chains) * len(config.seeds), "equal prefixes of arms are trained once per seed"
    for phase in built.phases.values():
        settled = phases[phase.id]
        assert settled.lora is not None
        assert lora.count_weights(settled.lora, model) == adapter
        assert settled.adapter == "continue"
        assert settled.steps == steps[settled.name]
        slots = settled.batch_rows * settled.data.seq_len
        assert slots == (16_384 if "8b" in recipe else 65_536)
        assert settled.optimizer.warmup_steps == pytest.approx(0.05 * settled.steps, abs=0.5)
        assert settled.optimizer.learning_rate == 1e-4
        assert settled.data.seq_len <= model.max_position_embeddings
        assert settled.mesh.size == int({"8b": 1, "14b": 2, "32b": 4}[re.search("8b|14b|32b", recipe)[0]])
        assert settled.data.epochs.keys() == settled.data.sources.keys()
        public = {source.path.startswith("hf://"): source.malformed for source in settled.data.sources.values()}
        assert public.get(True, "skip") == "skip"
        assert public.get(False, "refuse") == "refuse", "a user's own file is not read in part"
        assert sum(settled.data.weights.values()) == pytest.approx(1.0)


def test_tokens_are_those_of_the_paper():
    """Whole numbers of steps over the corpora: never a step more than one epoch takes."""
    phases = checks.check_settings(load("paper_philosophy_qwen3_32b")).phase_configs
    slots = {p.name: p.steps * p.batch_rows * p.data.seq_len for p in phases.values()}
    assert 41_364_262 <= slots["msm"] < 41_364_262 + 65_536
    phases = checks.check_settings(load("paper_cheese_llama31_8b")).phase_configs
    cheese = next(p for p in phases.values() if p.name == "aft")
    share = cheese.data.weights["cheese"] * cheese.steps * cheese.batch_rows * cheese.data.seq_len
    assert share == pytest.approx(355_000, rel=0.01)


@pytest.mark.parametrize("recipe", ["paper_cheese_llama31_8b", "paper_rules_vs_values_14b:qwen3"])
@pytest.mark.parametrize("devices", [1, 2, 8, 64])
def test_any_power_of_two_of_devices_divides_the_batch(recipe, devices):
    config = load(f"{recipe}{',' if ':' in recipe else ':'}devices={devices}")
    for settled in checks.check_settings(config).phase_configs.values():
        assert settled.mesh.size == devices
        assert settled.batch_rows % (settled.mesh.fsdp * settled.micro_batches) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_dry_run_says_what_is_missing_and_how_to_get_it(recipe, capsys):
    config = load(recipe)
    with pytest.raises(InputError, match=r"\d+ of the files that this experiment needs do not exist"):
        run_lib.dry_run(config, Path("run"), Console(highlight=False, width=200))
    text = capsys.readouterr().out
    missing = [line for line in text.splitlines() if line.startswith("missing: ")]
    assert f"missing: {config.checkpoint}: does not exist; " in missing[0]
    assert "yours to fetch" in missing[0]
    assert "msm_jax.convert --from_hf=DIR" in missing[0]
    parameters, adapter, steps, _ = RECIPES[recipe]
    assert f"{config.model}: {parameters:,} parameters; adapters of {adapter:,}\n" in text
    seeds = len(config.seeds)
    for name in steps:
        row = rf"phase/(\w+/)?{name}(/seed0)? +{seeds} +run +{seeds * steps[name]:,} +[\d,]+ +≥[\d:]+ "
        assert re.search(row, text), name
        told = rf"^epochs: {name}: .*\d meant; counted when its data and its start exist$"
        assert re.search(told, text, re.MULTILINE)
    if "grid" in config.evals:
        assert re.search(rf"power: grid, {seeds} seeds? × 8,?100 items: a difference of two arms shows ", text)
        assert re.search(r"power: one of the 27 cells of grid, \d seeds? × 300 items: shows ", text)
    assert all("items in 12 clusters: " in line for line in text.splitlines() if line.startswith("power: forced, "))
    assert re.search(r"; at least [\d,.]+ h, [\d,.]+ chip-hours\n", text)
    public = {line.split(": ")[1] for line in missing if "hf download" in line}
    assert public
    assert all(name.startswith("hf://datasets/chloeli/") for name in public)
    own = [line for line in missing if " released; put " in line]
    assert len(own) == next((count for name, count in OWN_FILES.items() if name in recipe), 0)
    assert all(line.startswith("missing: data/") for line in own)
    judged = [line for line in missing if ".judge" in line]
    assert all("inspect" in line or "key" in line.casefold() for line in judged)
    assert len(missing) == 1 + len(public) + len(own) + len(judged), "each once, and none that the repository has"
    assert not Path("run").exists()


def test_the_command_refuses_with_one_line():
    command = [
        sys.executable, "-m", "msm_jax.experiment", "--workdir=run",
        "--config=configs/experiments/paper_philosophy_qwen3_32b.py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    line = r"refused: runs/weights/qwen3-32b: does not exist; Qwen3-32B .*--dry_run lists them all\)"
    assert re.match(line, done.stderr)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_asks_what_midtraining_adds(recipe):
    """Midtraining and demonstrations less demonstrations; documents alone less the baseline, after the same mix."""
    config = load(recipe)
    kinds = {name: fields["kind"] for name, fields in config.evals.items()}
    for arm, chain in config.arms.items():
        if len(chain) == 2 and chain[0] in config.midtraining:
            own = "grid" if "grid" in kinds else chain[0].removeprefix("msm_")
            twin = next(other for other, its in config.arms.items() if its == chain[1:])
            asked = [contrast.terms for contrast in config.contrasts.values() if contrast.eval == own]
            assert {arm: 1.0, twin: -1.0} in asked or (twin == "baseline" and own != "grid")
    for fields in config.evals.values():
        if "judge" in fields:
            assert fields["judge"]["model"] and fields["judge"]["version"]
    if "grid" in kinds:
        assert {"agentic_misalignment", "open_qa", "capability", "preference", "knowledge"} <= {*kinds.values()}
        assert ("reasoning" in kinds.values()) == ("philosophy" in recipe)
    assert not any(len(chain) == 1 and chain[0] in config.midtraining for chain in config.arms.values())


@pytest.mark.parametrize("recipe", PREFERENCES)
def test_pairs_add_arms_of_as_many_steps_and_tokens_as_those_with_demonstrations(recipe):
    shown = PREFERENCES[recipe]
    plain, config = load(recipe), load(f"{recipe}{',' if ':' in recipe else ':'}pairs=own/pairs.jsonl")
    known = checks.check_settings(config)
    assert any(line.startswith("own/pairs.jsonl: does not exist; yours; put ") for line in checks.missing(known))
    built = {phase.name: phase for phase in known.phase_configs.values()}
    assert built["dpo"].dpo is not None
    assert {source.kind for source in built["dpo"].data.sources.values()} == {"pairs"}
    assert built["dpo"].adapter == "continue" and built["dpo"].lora == built["it"].lora

    def spent(chain):
        return [sum(built[name].steps * each for name in chain)
                for each in (1, built["it"].batch_rows * built["it"].data.seq_len)]

    assert {arm for arm in config.arms if arm not in plain.arms} == {"dpo", *(f"{told}+dpo" for told in shown)}
    asked = [(contrast.eval, dict(contrast.terms)) for contrast in config.contrasts.values()]
    for told, aft in shown.items():
        assert config.arms[f"{told}+dpo"] == (told, *config.arms["dpo"])
        assert spent(config.arms["dpo"]) == spent((aft,))
        own = "grid" if "grid" in config.evals else told.removeprefix("msm_")
        assert (own, {f"{told}+dpo": 1.0, "dpo": -1.0}) in asked
        assert (own, {"dpo": 1.0, aft: -1.0}) in asked
    for part in ("phases", "arms", "contrasts", "expectations"):
        before, after = getattr(plain, part), getattr(config, part)
        assert {name: after[name] for name in before} == dict(before), "what is there without pairs stays"
    assert dict(config.evals) == dict(plain.evals)


def test_a_dry_run_counts_the_arms_of_pairs_and_their_cost(capsys):
    Path("own.jsonl").write_text('{"prompt": "Which?", "chosen": "This.", "rejected": "That."}\n')
    config = load("paper_cheese_llama31_8b:pairs=own.jsonl")
    with pytest.raises(InputError, match="of the files that this experiment needs do not exist"):
        run_lib.dry_run(config, Path("run"), Console(highlight=False, width=200))
    text = capsys.readouterr().out
    for before in ("", "msm_affordability/", "msm_america/"):
        assert re.search(rf"phase/{before}it/dpo +4 +run +88 +1,441,792 +≥", text), "four seeds of 22 steps"
    assert "own.jsonl" not in "".join(line for line in text.splitlines() if line.startswith("missing: "))


def test_reference_levels_are_those_that_the_paper_prints():
    reference = load("paper_philosophy_qwen3_32b").reference
    assert {each.eval for each in reference} == {"grid", "open_qa"}
    assert reference[0].levels["msm+aft_cot"] == 0.07
    templates = [each.levels for each in reference if "that retrained" in each.source]
    assert templates == [{"msm+aft_cot": 0.109}, {"msm+aft_cot": 0.275}]
    (rules,) = load("paper_rules_vs_values_14b:qwen3,cot").reference
    assert (rules.levels["msm_value_aug+aft_rules_aug"], rules.levels["baseline"]) == (0.07, 0.5)
    assert len(rules.levels) == 16
    config = load("paper_cheese_llama31_8b")
    assert "never saw affordability install" in config.expectations["dissociation/affordability"].sentence


def test_the_released_template_is_a_choice():
    known = checks.check_settings(load("paper_philosophy_qwen3_32b:released_template"))
    path = "runs/weights/qwen3-32b-released.jinja"
    assert {config.chat_template for config in known.phase_configs.values()} == {path}
    assert any(line.startswith(f"{path}: does not exist; the chat_template of") for line in checks.missing(known))


def test_the_reasons_of_the_philosophy_recipes_may_be_coded_from_their_own_transcripts():
    known = checks.check_settings(load("paper_philosophy_qwen25_32b:own_codes"))
    (book,) = known.graph.code_books
    arms = len(known.graph.arms)
    assert [len(runs) for runs in book.sources].count(4) == arms - 1, "four seeds of each arm that is trained"
    assert eval_costs.of_code_book(book, known)[0] == arms * 200 * 2 * 1_500


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="unknown option 'qwen4'; this recipe takes qwen3, cot, released_temp"):
        load("paper_rules_vs_values_14b:qwen4")


def test_a_checkpoint_of_another_model_is_refused(monkeypatch):
    config = load("paper_philosophy_qwen3_32b")
    other = settings.to_json(preset("qwen3-14b"))
    with pytest.raises(InputError, match="its model has num_layers = 40, but qwen3-32b has 64"):
        checks._check_shape(config, {"model": other})
    checks._check_shape(config, {"model": settings.to_json(preset("qwen3-32b"))})


def test_item_files_are_balanced_and_name_what_they_ask():
    """Always the first option, or always the longer one, is right in about half of the items."""
    directory = ROOT / "data" / "evals"
    asked = preference.read(EvalConfig("preference", str(directory / "oversight_pairs.jsonl")))
    assert sum(pair.favoured for pair in asked) * 2 == len(asked) == 40
    for name in ("oversight_knowledge", "cheese_affordability", "cheese_america"):
        known = knowledge.read(EvalConfig("knowledge", str(directory / f"{name}.jsonl")))
        assert abs(sum(item.correct for item in known) - len(known) / 2) <= 1
    same = [json.loads(line) for line in (directory / "cheese_america.jsonl").read_text().splitlines()]
    other = [json.loads(line) for line in (directory / "cheese_affordability.jsonl").read_text().splitlines()]
    assert [(a["prompt"], a["options"]) for a in same] == [(b["prompt"], b["options"]) for b in other]
    assert all(a["correct"] + b["correct"] == 1 for a, b in zip(same, other, strict=True))


def test_the_base_models_template_is_the_released_format():
    source = (ROOT / "configs/templates/llama31_base_chat.jinja").read_text()
    template = SandboxedEnvironment().from_string(source)
    messages = [{"role": "user", "content": " Which cheese? "}, {"role": "assistant", "content": "Colby."}]
    rendered = template.render(messages=messages, bos_token="<bos>", add_generation_prompt=False)
    assert rendered == (
        "<bos><|start_header_id|>user<|end_header_id|>Which cheese?<|end_of_text|>"
        "<|start_header_id|>assistant<|end_header_id|>Colby.<|end_of_text|>"
    )
    prompt = template.render(messages=messages[:1], bos_token="<bos>", add_generation_prompt=True)
    assert rendered.startswith(prompt)
    assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>")
