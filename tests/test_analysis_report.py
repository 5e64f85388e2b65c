"""The report: files and schema, a page that needs nothing from outside, and what is refused."""

import copy
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from analysis_example import example

from msm_jax.analysis import dose_curves, encode, plots, report, tables
from msm_jax.analysis import findings as findings_lib
from msm_jax.analysis import html as html_lib
from msm_jax.errors import InputError, WorkError

TINY = {
    "experiment": "tiny",
    "seeds": [{"world": 0, "pretrain": 0, "seed": 0}],
    "arms": {"one": {"e": {"per_seed": [[1.0, 0.0]], "item_ids": ["a", "b"]}}},
    "contrasts": {},
}


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
    assert set(content) == {
        "schema_version", "experiment", "seeds", "arms", "contrasts", "gates", "expectations", "verdicts", "curves",
        "reference", "grids", "reasons", "cost", "goodput", "arm_cost", "warnings",
    }  # fmt: skip
    assert content["gates"]["gate"] == {"base": content["arms"]["base"]["gate"]["mean"]}
    assert set(content["gates"]["knowledge"]) == {"msm_affordability", "msm_tradition"}
    assert content["expectations"] == dict.fromkeys(results["expectations"], "met")
    assert content["seeds"] == results["seeds"]
    for arm, evals in content["arms"].items():
        for name, entry in evals.items():
            assert set(entry) - {"parse_rate", "measures"} == {"mean", "sem", "n_items", "per_seed"}
            for measure, found in entry.get("measures", {}).items():
                rows = results["arms"][arm][name]["measures"][measure]
                assert found["mean"] == pytest.approx(np.mean(rows), abs=1e-6)
            assert ("parse_rate" in entry) == name.endswith("_greedy")
            assert entry["per_seed"] is None if arm == "base" else len(entry["per_seed"]) == 3
            per_seed = [
                np.mean([x for x in row if x is not None]) for row in results["arms"][arm][name]["per_seed"]
            ]
            assert entry["mean"] == pytest.approx(np.mean(per_seed), abs=1e-6)
    for entry in content["contrasts"].values():
        assert set(entry) == {
            "eval", "measure", "diff", "ci95", "p_value", "method", "n_seeds", "n_items", "p_holm", "planned", "range",
            "effect_size", "effect_size_of", "detectable",
        }  # fmt: skip
        assert entry["ci95"][0] <= entry["diff"] <= entry["ci95"][1]
        assert (entry["n_seeds"], entry["n_items"]) == (3, 200)
    arms = content["arms"]
    expected = (
        arms["msm_affordability+aft"]["conflict"]["mean"] - arms["msm_tradition+aft"]["conflict"]["mean"]
    )
    assert content["contrasts"]["dissociation/conflict"]["diff"] == pytest.approx(expected, abs=2e-6)
    curve = content["curves"]["documents"]
    assert (curve["x"], curve["xlabel"]) == ([0, 100, 2000], "documents read")
    assert [level["mean"] for level in curve["evals"]["conflict"]["after"]] == [
        content["arms"][arm]["conflict"]["mean"] for arm in ("aft", "msm_tradition+aft", "msm_affordability+aft")
    ]
    assert content["goodput"] == results["goodput"]
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
        "plots/arms_nats.png",
        "plots/arms_probability.png",
        "plots/contrasts.png",
        "plots/curves.png",
        "plots/doses_documents.png",
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
    sections = (
        "answer", "warnings", "expected", "contrasts", "doses", "arms", "gates", "curves", "graph", "effects", "cost",
        "goodput", "samples",
    )  # fmt: skip
    for section in sections:
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


def test_page_shows_every_measure_expectation_dose_and_cost(results, tmp_path):
    wider = copy.deepcopy(results)
    terms = {"msm_affordability+aft": 1, "msm_tradition+aft": -1}
    wider["contrasts"]["in_nats"] = {"eval": "conflict", "terms": terms, "measure": "nats"}
    wider["expectations"]["in_nats"] = {"max": 0.1}
    wider["expectations"]["room"] = {"eval": "prefer_tradition", "arm": "aft", "min": 0.4}
    found = report.write(wider, tmp_path)
    assert {"contrasts.png", "contrasts_nats.png"} <= {path.name for path in (tmp_path / "plots").iterdir()}
    page = (tmp_path / "report.html").read_text().replace("<wbr>", "")
    assert not Page(page).open
    assert "<td>65.0 %</td><td>5.0 %</td>" in page, "steps and start-up"
    nats = found.contrasts["in_nats"].estimate.diff
    assert f"<b>+{nats:.2f} nats</b>" in page
    assert '<span class="pill failed">above 0.10 nats</span>' in page
    assert "<td>prefer_tradition of aft</td>" in page
    assert page.count('aria-label="Arms in ') == 2
    summary, interval = found.arms["aft"]["conflict"].measures["nats"]
    assert f"<td>{summary.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]</td>".replace("-", "−") in page
    assert page.count('aria-label="conflict by documents read"') == 1
    assert page.count('class="band"') == 2 * 2, "two series on two evals"
    mean = encode.content(found)["arms"]["msm_tradition"]["prefer_tradition"]["mean"]
    change = mean - encode.content(found)["arms"]["base"]["prefer_tradition"]["mean"]
    assert f"<td>{round(100 * mean)} (+{round(100 * change)})</td>" in page


@pytest.mark.parametrize(
    ("doses", "places"),
    [
        ((0, 1, 2), [0, 0.5, 1]),
        ((0, 10, 100, 1000), [0, 1 / (1 + 2 * np.log(10)), (1 + np.log(10)) / (1 + 2 * np.log(10)), 1]),
        ((1, 10, 100), [0, 0.5, 1]),
        ((-1, 0, 100), [0, 1 / 101, 1]),
    ],
)
def test_doses_that_span_much_are_spaced_by_their_logarithms(doses, places):
    assert [dose_curves.position(x, doses) for x in doses] == pytest.approx(places)


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
    hostile["chains"][nasty] = hostile["chains"].pop("aft")
    hostile["doses"] = {nasty: {nasty: "baseline"}}
    sample = dict.fromkeys(("id", "prompt", "reply", "parsed", "thoughts", "cell", "stop_reason"), nasty)
    hostile["samples"] = {nasty: {nasty: [{**sample, "judge": [nasty]}]}}
    hostile["arms"][nasty]["conflict"]["rates"] = {nasty: 0.5}
    hostile["curves"] = {nasty: results["curves"]["pretrain"]}
    hostile["graph"][0] |= {"label": nasty, "kind": nasty}
    hostile["arm_cost"] = {nasty: hostile["arm_cost"]["aft"]}
    curve = {"x": [0, 1], "xlabel": nasty, "series": {nasty: [nasty, "base"]}, "evals": ["conflict"]}
    hostile["dose_curves"] = {nasty: curve}
    hostile["cost"] = {nasty: results["cost"]["pretrain"]}
    found = findings_lib.analyse(hostile)
    page = Page(html_lib.render(found))
    assert not page.open
    assert not [tag for tag, _ in page.tags if tag == "script"]
    tables.print_report(found, io.StringIO())


def test_nothing_parsed_is_reported_as_such(results):
    silent = copy.deepcopy(results)
    silent["contrasts"]["silent"] = {"eval": "cheese_greedy", "terms": {"aft": 1, "baseline": -1}}
    silent["curves"] = {}
    silent["expectations"]["silent"] = {"inside": 0.2}
    silent["arms"]["aft"]["cheese_greedy"] |= {"per_seed": [[None] * 200] * 3, "parse_rate": 0.0}
    silent["arms"]["baseline"]["conflict"]["per_seed"][1] = None
    found = findings_lib.analyse(silent)
    content = json.loads(json.dumps(encode.content(found), allow_nan=False))
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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.pop("seeds"), "results.seeds: required field is missing"),
        (lambda r: r.update(colour="blue"), "results.colour: unknown field"),
        (
            lambda r: r["arms"]["aft"]["conflict"]["per_seed"].pop(),
            "results.arms.aft.conflict.per_seed has 2 entries where 3 are needed",
        ),
        (lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].pop(), "per_seed[1] has 199 scores"),
        (lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].__setitem__(0, 1.5), "outside [0, 1]"),
        (
            lambda r: r["arms"]["aft"]["conflict"]["per_seed"][1].__setitem__(0, "1"),
            "per_seed[1] is not a list of numbers and None",
        ),
        (
            lambda r: r["arms"]["base"]["conflict"]["per_seed"].append([0.0] * 200),
            "results.arms.base.conflict.per_seed has 2 entries where 1 are needed",
        ),
        (lambda r: r["arms"]["aft"]["conflict"]["item_ids"].reverse(), "scored on different items"),
        (lambda r: r["contrasts"]["neutral/conflict"]["terms"].update(nobody=1), "terms: unknown arm 'nobody'"),
        (
            lambda r: r["contrasts"]["neutral/conflict"].update(eval="conflict_greedy", measure="nats"),
            "results.contrasts.neutral/conflict.measure: 'aft' has no nats on 'conflict_greedy'",
        ),
        (
            lambda r: r["arms"]["aft"]["conflict"]["measures"]["probability"][0].__setitem__(0, -0.1),
            "results.arms.aft.conflict.measures.probability holds a score outside [0, 1]",
        ),
        (
            lambda r: r["arms"]["aft"]["conflict"]["measures"].update(logits=[]),
            "results.arms.aft.conflict.measures: unknown measure 'logits'",
        ),
        (lambda r: r["contrasts"]["neutral/conflict"].update(eval="gate"), "is not measured on 'gate'"),
        (
            lambda r: r["contrasts"]["neutral/conflict"].update(sentence="{who} wins"),
            "unknown field 'who'; valid: amount, direction, points",
        ),
        (lambda r: r["contrasts"]["neutral/conflict"].update(sentence="{points wins"), "is not a template"),
        (lambda r: r["expectations"].update(nothing={"min": 0}), "expectations: unknown contrast or eval 'nothing'"),
        (lambda r: r["graph"][0].update(status="lost"), "results.graph[0].status"),
        (lambda r: r["graph"][3]["parents"].append("x"), "unknown node 'x'"),
        (lambda r: r["cost"]["pretrain"].pop("flops"), "results.cost.pretrain.flops: required field is missing"),
        (lambda r: r["curves"]["pretrain"][0][0].pop("loss"), "results.curves.pretrain: a point lacks step or loss"),
        (
            lambda r: r["dose_curves"]["documents"]["series"]["after"].pop(),
            "results.dose_curves.documents.series.after: has 2 arms for 3 doses; name one for each",
        ),
        (
            lambda r: r["dose_curves"]["documents"].update(x=[0, 100, 100]),
            "results.dose_curves.documents.x: (0.0, 100.0, 100.0) must be at least two doses that increase",
        ),
        (lambda r: r["arm_cost"].update(nobody=r["arm_cost"]["aft"]), "results.arm_cost: unknown arm 'nobody'"),
        (lambda r: r.update(midtraining=["msm"]), "results.midtraining: unknown phase 'msm'; valid: demo"),
        (lambda r: r.update(gates=["gat"]), "results.gates: unknown eval 'gat'; did you mean gate?"),
        (lambda r: r.update(doses={"low": {"aft": "aft@low"}}), "results.doses: unknown arm 'aft@low'"),
        (lambda r: r.update(doses={"low": {"aft": "base"}, "lower": {"aft": "base"}}), "arm 'aft' is listed twice"),
        (
            lambda r: r.update(doses={"low": {"aft": "baseline"}, "lower": {"baseline": "base"}}),
            "results.doses: 'aft' refers to 'baseline', which refers to 'base'; name that one",
        ),
        (lambda r: r.update(generated={"conflict_greedy": "conflic"}), "results.generated: unknown eval 'conflic'"),
        (lambda r: r.update(chains={"aft": "sft"}), "results.chains.aft: expected a tuple, got 'sft'"),
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
        for name in [*results["contrasts"], *results["cost"], *found.results.evals(), "documentsread"]:
            assert name in joined
        assert "✓atleast95%" in joined
        entry = encode.content(found)["contrasts"]["dissociation/conflict"]
        assert f"+{round(100 * entry['diff'])}" in printed
    assert found.contrasts["stacking/tradition"].sentence in re.sub(r"\n", "", from_findings.getvalue())


def test_minimal_results_are_enough(tmp_path):
    report.write(TINY, tmp_path)
    assert not Page((tmp_path / "report.html").read_text()).open
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["arms.png"]
