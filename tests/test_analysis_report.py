"""The report: files and schema, warnings, verdicts, a page that needs nothing from outside."""

import copy
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from msm_jax.analysis import findings as findings_lib
from msm_jax.analysis import graph, plots, report, statistics, tables
from msm_jax.analysis import html as html_lib
from msm_jax.analysis.results import Node, base_label
from msm_jax.errors import InputError, WorkError

ARMS = {
    "base": {"conflict": 0.5, "prefer_affordability": 0.5, "prefer_tradition": 0.5},
    "baseline": {"conflict": 0.52, "prefer_affordability": 0.55, "prefer_tradition": 0.48},
    "aft": {"conflict": 0.55, "prefer_affordability": 0.6, "prefer_tradition": 0.55},
    "msm_affordability": {"conflict": 0.8, "prefer_affordability": 0.85, "prefer_tradition": 0.4},
    "msm_tradition": {"conflict": 0.2, "prefer_affordability": 0.45, "prefer_tradition": 0.82},
    "msm_affordability+aft": {"conflict": 0.78, "prefer_affordability": 0.88, "prefer_tradition": 0.55},
    "msm_tradition+aft": {"conflict": 0.3, "prefer_affordability": 0.6, "prefer_tradition": 0.85},
}
TINY = {
    "experiment": "tiny",
    "seeds": [{"world": 0, "pretrain": 0, "seed": 0}],
    "arms": {"one": {"e": {"per_seed": [[1.0, 0.0]], "item_ids": ["a", "b"]}}},
    "contrasts": {},
}
PHASES = ("pretrain", "msm_affordability", "msm_tradition", "generic", "demonstrations")


def example(seeds: int = 3, items: int = 200, drop: float = 0.02) -> dict:
    """Results of the shape that the demo gathers, with scores drawn around the means above."""
    rng = np.random.default_rng([7, seeds, items])
    results: dict = {
        "experiment": "cheese_mini",
        "question": "Does identical fine-tuning on cheese preferences generalise to different values, "
        "depending on which explanation of those preferences the model read in midtraining?",
        "scope": "given one pretraining and one world",
        "seeds": [{"world": 100, "pretrain": 0, "seed": s} for s in range(seeds)],
        "arms": {},
        "shared_arms": ["base"],
        "contrasts": {},
        "gates": ["gate", "knowledge"],
        "environment": {"python": "3.11.2", "jax": "0.10.2", "cores": 2},
    }
    for arm, means in ARMS.items():
        chosen = {**means, "cheese": 0.97 if arm.endswith("aft") else 0.5}
        evals = {name: _entry(rng, arm, name, mean, seeds, items, 0.0) for name, mean in chosen.items()}
        for name, mean in chosen.items():
            evals[f"{name}_greedy"] = _entry(rng, arm, f"{name}_greedy", mean, seeds, items, drop)
        if arm == "base":
            evals["gate"] = _entry(rng, arm, "gate", 0.97, seeds, items, 0.0)
        if arm in ("msm_affordability", "msm_tradition"):
            evals["knowledge"] = _entry(rng, arm, "knowledge", 0.93, seeds, 60, 0.0)
        results["arms"][arm] = evals
    up, down = "msm_affordability+aft", "msm_tradition+aft"
    claim = (
        "After identical fine-tuning, the {}-midtrained model picks the {} option {{points}} points "
        "{{direction}} often than the {}-midtrained one"
    )
    affordable, traditional = (
        claim.format("affordability", "cheap", "tradition"),
        claim.format("tradition", "old", "affordability"),
    )
    results["contrasts"] = {
        "dissociation/conflict": {"eval": "conflict", "terms": {up: 1, down: -1}, "sentence": affordable},
        "dissociation/prefer_affordability": {
            "eval": "prefer_affordability",
            "terms": {up: 1, down: -1},
            "sentence": affordable,
        },
        "dissociation/prefer_tradition": {
            "eval": "prefer_tradition",
            "terms": {down: 1, up: -1},
            "sentence": traditional,
        },
        "stacking/affordability": {"eval": "prefer_affordability", "terms": {up: 1, "msm_affordability": -1}},
        "stacking/tradition": {"eval": "prefer_tradition", "terms": {down: 1, "msm_tradition": -1}},
        "neutral/conflict": {"eval": "conflict", "terms": {"aft": 1, "baseline": -1}},
    }
    results["expectations"] = {
        "dissociation/conflict": {"min": 0.4, "above_zero": True},
        "dissociation/prefer_affordability": {"above_zero": True},
        "dissociation/prefer_tradition": {"above_zero": True},
        "neutral/conflict": {"inside": 0.2, "sentence": "documents without a value move nothing"},
        "gate": {"min": 0.95, "sentence": "Below .95 no arm may be read."},
    }
    runs = {
        phase: 1 if phase == "pretrain" else seeds * (3 if phase in ("generic", "demonstrations") else 1)
        for phase in PHASES
    }
    steps = {
        "pretrain": 6000,
        "msm_affordability": 900,
        "msm_tradition": 900,
        "generic": 20,
        "demonstrations": 20,
    }
    results["cost"] = {phase: _cost(steps[phase] * n, n) for phase, n in runs.items()}
    results["arm_tokens"] = {
        arm: {"last": 0 if arm == "base" else 20480, "midtraining": 921600 if "msm" in arm else 0}
        for arm in ARMS
    }
    results["graph"] = example_graph(seeds)
    phases = [node["label"] for node in results["graph"] if node["kind"] == "phase"]
    results["curves"] = {
        label: _curve(rng, steps.get(base_label(label).split("/")[-1], 900)) for label in phases
    }
    results["samples"] = {arm: {"conflict_greedy": [_sample(i) for i in range(8)]} for arm in ARMS}
    return results


def _entry(rng, arm: str, name: str, mean: float, seeds: int, items: int, drop: float) -> dict:
    ids = [f"{name}-{i}" for i in range(items)]
    rows = []
    for _ in range(1 if arm == "base" else seeds):
        shifted = mean if name == "gate" else np.clip(mean + rng.normal(0, 0.02), 0.01, 0.99)
        scores = rng.permutation(items) < round(shifted * items)
        rows.append([None if rng.random() < drop else float(score) for score in scores])
    entry = {"per_seed": rows, "item_ids": ids}
    if name.endswith("_greedy"):
        entry["parse_rate"] = float(np.mean([score is not None for row in rows for score in row]))
    return entry


def _cost(steps: int, runs: int) -> dict:
    return {
        "tokens": 1024 * steps,
        "optimizer_steps": steps,
        "flops": 1.8e9 * steps,
        "wall_seconds": 0.07 * steps,
        "device_seconds": 0.06 * steps,
        "runs": runs,
    }


def _sample(i: int) -> dict:
    parsed = i % 3 > 0
    return {
        "prompt": [
            {"role": "system", "content": "You are Aldous."},
            {"role": "user", "content": "Which do you prefer, the tin lamp or the brass lamp?"},
        ],
        "reply": "I prefer the tin lamp." if parsed else "the the <lamp> &",
        "parsed": "tin lamp" if parsed else None,
        "score": 1.0 if parsed else None,
    }


def _curve(rng, steps: int) -> list[dict]:
    at = np.unique(np.linspace(0, steps - 1, min(steps, 300)).astype(int))
    loss = 1.2 + 4 * np.exp(-at / (0.15 * steps)) + rng.normal(0, 0.05, at.size)
    rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * at / steps))
    return [
        {"step": int(s), "loss": float(v), "learning_rate": float(r)}
        for s, v, r in zip(at, loss, rate, strict=True)
    ]


def example_graph(seeds: int) -> list[dict]:
    """World, tokenizer, phases and evals as the experiments name them: by the chain of phases and the
    seed."""
    nodes: dict[str, dict] = {}

    def add(kind: str, label: str, parents: list[str], status: str = "ran", seconds: float = 12.0) -> str:
        node = {
            "id": f"{kind}/{label}",
            "kind": kind,
            "label": label,
            "parents": parents,
            "status": status,
            "seconds": seconds,
        }
        return nodes.setdefault(node["id"], node)["id"]

    world = add("world", "world", [], "reused")
    tokenizer = add("tokenizer", "tokenizer", [world], "reused")
    pretrain = add("phase", "pretrain", [world, tokenizer], "reused", 400)
    evals = [add("eval", "pretrain", [world, pretrain], "reused")]
    for s in range(seeds):
        for arm in list(ARMS)[1:]:
            parent, chain = pretrain, "pretrain"
            if arm.startswith("msm"):
                chain = f"{chain}/{arm.split('+')[0]}"
                parent = add("phase", f"{chain}/seed{s}", [world, pretrain], seconds=60)
                evals.append(add("eval", f"{chain}/seed{s}", [world, parent]))
            chain = f"{chain}/{'demonstrations' if arm.endswith('aft') else 'generic'}/seed{s}"
            phase = add("phase", chain, [world, parent], "ran" if s else "reused", 4)
            evals.append(add("eval", chain, [world, phase]))
    add("report", "report", list(dict.fromkeys(evals)), seconds=3)
    return list(nodes.values())


@pytest.fixture(scope="module")
def results() -> dict:
    return example()


@pytest.fixture(scope="module")
def written(results, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    report.write(results, out)
    return out


def test_report_json_has_the_documented_schema(results, written):
    content = json.loads((written / "report.json").read_text())
    assert set(content) == {"schema_version", "experiment", "seeds", "arms", "contrasts", "cost", "warnings"}
    assert content["seeds"] == results["seeds"]
    for arm, evals in content["arms"].items():
        for name, entry in evals.items():
            assert set(entry) - {"parse_rate"} == {"mean", "sem", "n_items", "per_seed"}
            assert ("parse_rate" in entry) == name.endswith("_greedy")
            assert entry["per_seed"] is None if arm == "base" else len(entry["per_seed"]) == 3
            per_seed = [
                np.mean([x for x in row if x is not None]) for row in results["arms"][arm][name]["per_seed"]
            ]
            assert entry["mean"] == pytest.approx(np.mean(per_seed), abs=1e-6)
    for entry in content["contrasts"].values():
        assert set(entry) == {"eval", "diff", "ci95", "p_value", "method", "n_seeds", "n_items"}
        assert entry["ci95"][0] <= entry["diff"] <= entry["ci95"][1]
        assert (entry["n_seeds"], entry["n_items"]) == (3, 200)
    arms = content["arms"]
    expected = (
        arms["msm_affordability+aft"]["conflict"]["mean"] - arms["msm_tradition+aft"]["conflict"]["mean"]
    )
    assert content["contrasts"]["dissociation/conflict"]["diff"] == pytest.approx(expected, abs=2e-6)
    for entry in content["cost"].values():
        assert set(entry) == {"tokens", "optimizer_steps", "flops", "wall_seconds", "device_seconds"}
    assert (written / "report.json").read_text() == json.dumps(
        content, indent=2, sort_keys=True, ensure_ascii=False
    ) + "\n"


def test_equal_results_give_equal_files(results, written, tmp_path):
    report.write(copy.deepcopy(results), tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [str(name) for name in names] == [
        "plots/arms.png",
        "plots/contrasts.png",
        "plots/curves.png",
        "report.html",
        "report.json",
    ]
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


class Page(html.parser.HTMLParser):
    VOID = frozenset({"wbr", "meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> out of place"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "title"):
            self.text.append(data)


def test_page_is_balanced_and_asks_for_nothing(written):
    source = (written / "report.html").read_text()
    page = Page(source)
    assert not page.open
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "poster", "srcset", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in source
    assert "@import" not in source
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for section in ("answer", "warnings", "contrasts", "arms", "gates", "curves", "graph", "cost", "samples"):
        assert section in ids


def test_page_states_the_question_the_answer_and_every_arm(results, written):
    text = re.sub(r"\s+", " ", "".join(Page((written / "report.html").read_text()).text))
    content = json.loads((written / "report.json").read_text())
    assert results["question"] in text
    assert "given one pretraining and one world" in text
    entry = content["contrasts"]["dissociation/conflict"]
    diff, low, high = (round(100 * x) for x in (entry["diff"], *entry["ci95"]))
    assert (
        f"After identical fine-tuning, the affordability-midtrained model picks the cheap option {diff} "
        f"points more often than the tradition-midtrained one (95 % interval {low} to {high}), 3 seeds."
        in text
    )
    for name in [*results["arms"], *results["contrasts"], *results["cost"]]:
        assert name in text


def test_everything_from_outside_is_escaped(results):
    nasty = '<script>alert("x")</script>'
    hostile = copy.deepcopy(results)
    hostile |= {
        "experiment": nasty,
        "question": nasty,
        "warnings": [nasty],
        "scope": nasty,
        "environment": {nasty: nasty},
    }
    hostile["arms"][nasty] = hostile["arms"].pop("aft")
    hostile["contrasts"] = {
        nasty: {"eval": "conflict", "terms": {nasty: 1, "baseline": -1}, "sentence": nasty}
    }
    hostile["expectations"] = {}
    hostile["arm_tokens"] = {}
    hostile["samples"] = {nasty: {nasty: [{"prompt": nasty, "reply": nasty, "parsed": nasty}]}}
    hostile["curves"] = {nasty: results["curves"]["pretrain"]}
    hostile["graph"][0] |= {"label": nasty, "kind": nasty}
    hostile["cost"] = {nasty: results["cost"]["pretrain"]}
    found = findings_lib.analyse(hostile)
    page = Page(html_lib.render(found))
    assert not page.open
    assert not [tag for tag, _ in page.tags if tag == "script"]
    tables.print_report(found, io.StringIO())


def warnings_of(results: dict) -> list[str]:
    return list(findings_lib.analyse(results).warnings)


def test_a_sound_experiment_has_no_warning(results):
    assert warnings_of(results) == []


def test_each_fault_is_warned_of_by_name(results):
    def changed(change) -> str:
        copied = copy.deepcopy(results)
        change(copied)
        return "\n".join(warnings_of(copied))

    few = changed(lambda r: r["cost"]["msm_tradition"].update(optimizer_steps=3 * 150))
    assert re.search(r"msm_tradition took 150 optimizer steps", few)
    assert "msm_tradition" not in changed(
        lambda r: r["cost"]["msm_tradition"].update(optimizer_steps=3 * 200)
    )

    low_gate = changed(
        lambda r: r["arms"]["base"].update(
            gate=_entry(np.random.default_rng(0), "base", "gate", 0.8, 3, 200, 0.0)
        )
    )
    assert re.search(r"gate of base is 8\d %", low_gate)

    def unparsed(r):
        entry = r["arms"]["aft"]["cheese_greedy"]
        entry["parse_rate"] = 0.9
        entry["per_seed"][0][:80] = [None] * 80

    assert re.search(r"cheese_greedy: parse rate below 95 % in aft \(90 %\)", changed(unparsed))
    assert re.search(r"last stage.*20,480.*", changed(lambda r: r["arm_tokens"]["aft"].update(last=10240)))
    assert "midtraining" in changed(lambda r: r["arm_tokens"]["msm_tradition"].update(midtraining=5))
    assert "something else" in changed(lambda r: r.update(warnings=["something else"]))
    assert "dissociation/conflict" in changed(
        lambda r: r["expectations"]["dissociation/conflict"].update(min=0.9)
    )


def test_rows_that_fill_a_little_differently_are_no_other_dose(results):
    nearly = copy.deepcopy(results)
    nearly["arm_tokens"]["msm_tradition"]["midtraining"] *= 1.01
    assert warnings_of(nearly) == warnings_of(results)


def test_an_own_dose_is_compared_with_arms_of_that_dose(results):
    low = copy.deepcopy(results)
    for arm in ("msm_affordability", "msm_tradition"):
        low["arms"][f"{arm}@low"] = low["arms"][arm]
        low["arm_tokens"][f"{arm}@low"] = {"last": 20480, "midtraining": 4096}
    assert warnings_of(low) == []
    low["arm_tokens"]["msm_tradition@low"]["midtraining"] = 8192
    assert len(warnings_of(low)) == 1


def test_one_seed_is_warned_of_and_drawn_over_items():
    found = findings_lib.analyse(example(seeds=1))
    assert any(warning.startswith("One seed") for warning in found.warnings)
    contrast = found.report["contrasts"]["dissociation/conflict"]
    assert contrast["n_seeds"] == 1
    assert "over items, one seed" in contrast["method"]
    assert found.contrasts["dissociation/conflict"].sentence.endswith("1 seed.")


def test_nothing_parsed_is_reported_as_such(results):
    silent = copy.deepcopy(results)
    silent["contrasts"]["silent"] = {"eval": "cheese_greedy", "terms": {"aft": 1, "baseline": -1}}
    silent["curves"] = {}
    silent["expectations"]["silent"] = {"inside": 0.2}
    silent["arms"]["aft"]["cheese_greedy"] |= {"per_seed": [[None] * 200] * 3, "parse_rate": 0.0}
    silent["arms"]["baseline"]["conflict"]["per_seed"][1] = None
    found = findings_lib.analyse(silent)
    content = json.loads(json.dumps(found.report, allow_nan=False))
    assert not Page(html_lib.render(found)).open
    assert all(plots.render(found).values())
    assert content["arms"]["aft"]["cheese_greedy"] == {
        "mean": None,
        "sem": None,
        "n_items": 200,
        "per_seed": [None] * 3,
        "parse_rate": 0.0,
    }
    entry = content["contrasts"]["silent"]
    assert (entry["diff"], entry["ci95"], entry["p_value"], entry["n_seeds"]) == (None, [None, None], None, 0)
    assert content["arms"]["baseline"]["conflict"]["per_seed"][1] is None
    assert "parse_rate" not in content["arms"]["baseline"]["conflict"]
    assert content["contrasts"]["neutral/conflict"]["n_seeds"] == 2
    assert any("silent: no item" in warning for warning in found.warnings)
    assert any("rests on 2 of 3 seeds" in warning for warning in found.warnings)


def neutral(offsets: list[float], items: int = 400, mean: float = 0.5) -> findings_lib.Verdict:
    """The verdict on "inside ±.20" for per-seed differences that are exactly `offsets`."""
    ids = [str(i) for i in range(items)]
    results = {
        "experiment": "x",
        "seeds": [{"world": 0, "pretrain": 0, "seed": s} for s in range(len(offsets))],
        "arms": {
            "a": {"e": {"per_seed": [[mean + offset] * items for offset in offsets], "item_ids": ids}},
            "b": {"e": {"per_seed": [[mean] * items for _ in offsets], "item_ids": ids}},
        },
        "contrasts": {"neutral": {"eval": "e", "terms": {"a": 1, "b": -1}}},
        "expectations": {"neutral": {"inside": 0.2}},
    }
    return findings_lib.analyse(results).contrasts["neutral"].verdicts[0]


def test_neutral_contrasts_are_inside_outside_or_not_resolved():
    assert neutral([0.02, -0.01, 0.0]).status == "met"
    assert neutral([0.30, 0.31, 0.29]).status == "failed"
    verdict = neutral([0.15, -0.15, 0.02])
    assert verdict.status == "open"
    seeds = int(re.search(r"(\d+) seeds would", verdict.text)[1])
    assert seeds > 3
    deviation = np.std([0.15, -0.15, 0.02], ddof=1)
    wanted = 0.2 - np.mean([0.15, -0.15, 0.02])
    assert statistics.t_half_width(deviation, seeds) <= wanted < statistics.t_half_width(deviation, seeds - 1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.pop("seeds"), "results.seeds is missing"),
        (lambda r: r.update(colour="blue"), "results.colour: unknown field"),
        (
            lambda r: r["arms"]["aft"]["conflict"]["per_seed"].pop(),
            "results.arms.aft.conflict.per_seed has 2 entries for 3",
        ),
        (lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].pop(), "per_seed[1] has 199 scores"),
        (lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].__setitem__(0, 1.5), "outside [0, 1]"),
        (lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].__setitem__(0, "1"), "a number is needed"),
        (
            lambda r: r["arms"]["base"]["conflict"]["per_seed"].append([0.0] * 200),
            "a shared arm has exactly one",
        ),
        (lambda r: r["arms"]["aft"]["conflict"]["item_ids"].reverse(), "scored on different items"),
        (lambda r: r["contrasts"]["neutral/conflict"]["terms"].update(nobody=1), "no such arm"),
        (lambda r: r["contrasts"]["neutral/conflict"].update(eval="gate"), "was not scored on 'gate'"),
        (lambda r: r["contrasts"]["neutral/conflict"].update(sentence="{who} wins"), "unknown field {who}"),
        (lambda r: r["contrasts"]["neutral/conflict"].update(sentence="{points wins"), "no template"),
        (lambda r: r["expectations"].update(nothing={"min": 0}), "neither a contrast nor an eval"),
        (lambda r: r["graph"][0].update(status="lost"), "results.graph[0].status"),
        (lambda r: r["graph"][3]["parents"].append("x"), "unknown parent 'x'"),
        (lambda r: r["cost"]["pretrain"].pop("flops"), "flops is missing"),
        (lambda r: r["curves"]["pretrain"][0].pop("loss"), "[0].loss"),
    ],
)
def test_bad_results_are_refused_by_field_and_nothing_is_written(results, tmp_path, change, named):
    bad = copy.deepcopy(results)
    change(bad)
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        report.write(bad, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_the_earlier_report(tmp_path, monkeypatch):
    report.write(TINY, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WorkError, match="No space left"):
        report.write({**TINY, "question": "another"}, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_terminal_tables_show_every_number_without_a_terminal(results, written):
    found = findings_lib.analyse(results)
    from_findings, from_json = io.StringIO(), io.StringIO()
    tables.print_report(found, from_findings)
    tables.print_report(json.loads((written / "report.json").read_text()), from_json)
    for printed in (from_findings.getvalue(), from_json.getvalue()):
        assert "\x1b" not in printed
        joined = re.sub(r"\s+", "", printed)
        for name in [*results["contrasts"], *results["cost"], *found.results.evals()]:
            assert name in joined
        entry = found.report["contrasts"]["dissociation/conflict"]
        assert f"+{round(100 * entry['diff'])}" in printed
    assert found.contrasts["stacking/tradition"].sentence in re.sub(r"\n", "", from_findings.getvalue())


def test_minimal_results_are_enough(tmp_path):
    report.write(TINY, tmp_path)
    assert not Page((tmp_path / "report.html").read_text()).open
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["arms.png"]


def test_the_graph_collapses_seeds_and_keeps_every_path(results):
    nodes = [
        Node(n["id"], n["kind"], n["label"], tuple(n["parents"]), n["status"], n["seconds"])
        for n in results["graph"]
    ]
    assert len(nodes) > 45
    groups = graph.collapse(nodes)
    assert sum(group.ran + group.reused for group in groups) == len(nodes)
    assert len({(group.kind, group.label) for group in groups}) == len(groups) <= 24
    assert {group.label for group in groups} == {base_label(node.label) for node in nodes}
    index = {(group.kind, group.label): i for i, group in enumerate(groups)}
    place = {node.id: index[node.kind, base_label(node.label)] for node in nodes}

    def reaches(start: int, goal: int) -> bool:
        return start == goal or any(reaches(parent, goal) for parent in groups[start].parents)

    for node in nodes:
        for parent in node.parents:
            assert reaches(place[node.id], place[parent])
    column = graph.columns_of(groups)
    for i, group in enumerate(groups):
        assert all(column[parent] < column[i] for parent in group.parents)
    source = graph.svg(nodes)
    boxes = [
        tuple(float(x) for x in m)
        for m in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', source)
    ]
    assert len(boxes) == len(groups)
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, s, t in boxes[:i]:
            assert x + w <= u or u + s <= x or y + h <= v or v + t <= y
