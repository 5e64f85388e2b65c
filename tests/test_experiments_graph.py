"""Settings, graph, seeds and addresses' parts."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msm_jax.errors import InputError
from msm_jax.experiments import checks
from msm_jax.experiments import graph as graph_lib
from msm_jax.experiments.config import ExperimentConfig, substitute
from msm_jax.foundation import hashing, settings

PHASE = {"steps": 1}
EFFECT = {"eval": "prefer", "terms": {"aft": 1.0, "base": -1.0}}
CURVE = {"x": (0, 1), "xlabel": "dose", "series": {"s": ("base", "aft")}, "evals": ("prefer",)}
PAIR = (("base", "aft"),)


def config(**changes):
    fields = {
        "name": "x",
        "seeds": (0, 1),
        "phases": {"pretrain": PHASE, "msm": PHASE, "aft": PHASE},
        "shared": ("pretrain",),
        "arms": {"base": ("pretrain",), "aft": ("pretrain", "aft"), "msm+aft": ("pretrain", "msm", "aft")},
        "tokenizer": {"path": "tokenizer"},
        "evals": {
            "prefer": {"kind": "preference", "path": "pairs.jsonl"},
            "knowledge": {"kind": "knowledge", "after": {"msm": "k.jsonl"}},
        },
    }
    return settings.build(ExperimentConfig, {**fields, **changes})


def test_equal_prefixes_are_one_node_per_seed_and_shared_ones_one_for_all():
    graph = graph_lib.build(config())
    assert sorted(phase.id for phase in graph.phases.values()) == [
        "phase/pretrain",
        "phase/pretrain/aft/seed0",
        "phase/pretrain/aft/seed1",
        "phase/pretrain/msm/aft/seed0",
        "phase/pretrain/msm/aft/seed1",
        "phase/pretrain/msm/seed0",
        "phase/pretrain/msm/seed1",
    ]
    ids = {phase.id for phase in graph.phases.values()}
    order = [phase.id for phase in graph.phases.values()]
    for phase in graph.phases.values():
        if phase.parent:
            own = graph_lib.seed_of(config(), phase.parent, phase.seed or 0)
            parent = graph.phases[phase.parent, own].id
            assert parent in ids
            assert order.index(parent) < order.index(phase.id)


def test_evals_are_measured_at_the_end_of_arms_and_after_their_phase():
    graph = graph_lib.build(config())
    measured = {measurement.id: dict(measurement.evals) for measurement in graph.measurements.values()}
    pairs = {"prefer": "pairs.jsonl"}
    assert measured == {
        "eval/pretrain": pairs,
        **{f"eval/pretrain/aft/seed{s}": pairs for s in (0, 1)},
        **{f"eval/pretrain/msm/aft/seed{s}": pairs for s in (0, 1)},
        **{f"eval/pretrain/msm/seed{s}": {"knowledge": "k.jsonl"} for s in (0, 1)},
    }


def test_a_checkpoint_may_be_an_arm_without_phases():
    own = config(
        checkpoint="run",
        tokenizer={},
        shared=(),
        arms={"base": (), "aft": ("aft",)},
        evals={"prefer": {"kind": "preference", "path": "p"}},
    )
    graph = graph_lib.build(own)
    assert graph.measurement((), None, "prefer").id == "eval/(checkpoint)"
    assert not graph.has_tokenizer


@given(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["aft", "msm"]), st.sampled_from(["aft", "msm"]))
def test_a_phase_seed_is_fixed_by_name_and_seed(first, second, name, other):
    own = config()
    equal = graph_lib.phase_seed(own, name, first) == graph_lib.phase_seed(own, other, second)
    assert equal == ((first, name) == (second, other))
    assert 0 <= graph_lib.phase_seed(own, name, first) < 2**31


def test_phase_seeds_stay_what_they_were():
    """Every experiment in existence would train again if these changed."""
    assert (
        graph_lib.phase_seed(config(), "aft", 0)
        == int.from_bytes(__import__("hashlib").sha256(b"seed 0, phase aft").digest()[:4], "big") // 2
    )
    other = config(world={"kind": "miniworld", "seed": 3})
    assert graph_lib.phase_seed(config(), "pretrain", None) != graph_lib.phase_seed(other, "pretrain", None)
    assert graph_lib.phase_seed(config(), "aft", 1) == graph_lib.phase_seed(other, "aft", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {"a": ("pretrain", "mms")}}, r"arms.a: 'mms' is unknown; did you mean msm\?"),
        ({"arms": {}}, "arms: is empty"),
        ({"arms": {"a": ()}}, "arms.a: is empty and there is no checkpoint"),
        ({"arms": {"a": ("msm", "pretrain")}}, "shared phase pretrain follows"),
        ({"arms": {"a": ("pretrain", "msm", "msm")}}, "occurs twice"),
        ({"arms": {"a/b": ("pretrain",)}}, 'without "/"'),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "negative"),
        ({"name": ""}, "name"),
        ({"shared": ("pre",)}, "shared: 'pre' is unknown"),
        (
            {"phases": {"pretrain": {"seed": 1}, "msm": PHASE, "aft": PHASE}},
            "phases.pretrain.seed: is set by",
        ),
        ({"world": {"kind": "big"}}, "world.kind: 'big'"),
        ({"world": {}}, "world.kind: None"),
        ({"tokenizer": {}}, "tokenizer: is not set"),
        ({"tokenizer": {"path": "x", "vocab_size": 3, "train_on": ("a",)}}, "exclude each other"),
        ({"tokenizer": {"vocab_size": 3}}, "go together"),
        (
            {"tokenizer": {"vocab_size": 3, "train_on": ("{world}/a",)}},
            r"tokenizer.train_on: .* needs a world",
        ),
        ({"checkpoint": "run"}, "brings its own"),
        (
            {"contrasts": {"c": {"eval": "prefr", "terms": {"aft": 1.0}}}},
            "contrasts.c.eval: unknown eval 'prefr'; did you mean prefer",
        ),
        (
            {"contrasts": {"c": {"eval": "prefer", "terms": {"aftt": 1.0}}}},
            "contrasts.c.terms: unknown arm 'aftt'; did you mean aft",
        ),
        ({"contrasts": {"c": {"eval": "prefer", "terms": {}}}}, "contrasts.c.terms: is empty"),
        (
            {"contrasts": {"c": {"eval": "knowledge", "terms": {"aft": 1.0}}}},
            "contrasts.c.terms: 'aft' is not measured on 'knowledge'",
        ),
        ({"expectations": {"pref": {"min": 0.5}}}, "expectations: unknown contrast or eval 'pref'; did you mean pref"),
        ({"expectations": {"prefer": {"min": 0.5, "arm": "bse"}}}, "expectations.prefer.arm: unknown arm 'bse'"),
        ({"expectations": {"prefer": {"inside": 0.1}}}, 'an eval takes "min" and "max" alone'),
        ({"expectations": {"high": {"eval": "prefr", "max": 0.5}}}, "expectations.high.eval: unknown eval 'prefr'"),
        (
            {"expectations": {"high": {"eval": "knowledge", "arm": "aft", "max": 0.5}}},
            "expectations.high.arm: 'aft' is not measured on 'knowledge'",
        ),
        (
            {"contrasts": {"c": EFFECT}, "expectations": {"c": {"arm": "aft"}}},
            "expectations.c: is of a contrast, which has no eval or arm",
        ),
        ({"contrasts": {"c": EFFECT | {"mean_of": ("c",)}}}, "contrasts.c.terms and mean_of: exclude each other"),
        ({"contrasts": {"c": EFFECT | {"measure": "percent"}}}, "contrasts.c.measure: 'percent'"),
        ({"contrasts": {"c": EFFECT, "m": {"mean_of": ("c", "d")}}}, "contrasts.m.mean_of: unknown contrast 'd'"),
        ({"contrasts": {"c": EFFECT, "m": {"mean_of": ("c", "c")}}}, "at least two contrasts, each once"),
        (
            {"contrasts": {"c": EFFECT, "d": EFFECT | {"measure": "nats"}, "m": {"mean_of": ("c", "d")}}},
            "contrasts.m.mean_of: its contrasts differ in measure or form",
        ),
        (
            {"contrasts": {"c": EFFECT, "d": EFFECT, "m": {"mean_of": ("c", "d"), "eval": "prefer"}}},
            "contrasts.m: eval and measure of a mean are those of its contrasts",
        ),
        (
            {"contrasts": {"c": EFFECT, "m": {"mean_of": ("c", "n")}, "n": {"mean_of": ("c", "m")}}},
            "contrasts.m.mean_of: one of them is a mean itself",
        ),
        (
            {"contrasts": {"c": {"eval": "prefer", "equal_level": {"more": (("base", "aft"),), "less": ()}}}},
            "contrasts.c.equal_level: more or less is empty",
        ),
        (
            {"contrasts": {"c": {"eval": "prefer", "equal_level": {"more": PAIR, "less": (("base", "atf"),)}}}},
            "contrasts.c.equal_level: unknown arm 'atf'",
        ),
        ({"curves": {"c": CURVE | {"x": (0, 2, 1)}}}, r"curves.c.x: \(0.0, 2.0, 1.0\) must be at least two doses"),
        ({"curves": {"c": CURVE | {"x": (0,)}}}, "curves.c.x: "),
        ({"curves": {"c": CURVE | {"series": {}}}}, "curves.c.series: is empty"),
        ({"curves": {"c": CURVE | {"series": {"s": ("aft",)}}}}, "curves.c.series.s: has 1 arms for 2 doses"),
        ({"curves": {"c": CURVE | {"series": {"s": ("aft", "bas")}}}}, "curves.c.series.s: unknown arm 'bas'"),
        ({"curves": {"c": CURVE | {"evals": ("prefr",)}}}, "curves.c.evals: unknown eval 'prefr'"),
        ({"curves": {"c": CURVE | {"evals": ("knowledge",)}}}, "'base' is not measured on 'knowledge'"),
        ({"sweep_expectations": {"c": {"min": 0.1}}}, "sweep_expectations: unknown contrast 'c'"),
        (
            {"contrasts": {"c": EFFECT}, "sweep_expectations": {"c": {"inside": 0.0}}},
            "sweep_expectations.c.inside is 0; it must be above 0",
        ),
        ({"contrasts": {"c": EFFECT | {"sentence": "by {level}"}}}, "contrasts.c.sentence: unknown field 'level'"),
        ({"gates": ("gate",)}, "gates: 'gate' is unknown"),
        ({"midtraining": ("mms",)}, "midtraining: 'mms' is unknown; did you mean msm"),
        ({"doses": {"low": {"aft@low": "aft"}}}, "doses: unknown arm 'aft@low'; did you mean aft"),
        ({"doses": {"low": {"aft": "base"}, "high": {"aft": "base"}}}, "doses: arm 'aft' is listed twice"),
        ({"generated": {"prefer": "prefer_greedy"}}, "generated: unknown eval 'prefer_greedy'"),
        ({"generated": {"prefer": "prefer"}}, "generated: 'prefer' refers to 'prefer', which refers to"),
        ({"evals": {"k": {"after": {"mms": "p"}}}}, "evals.k.after: 'mms' is unknown"),
        ({"evals": {"k": {"after": {"msm": "p"}, "path": "q"}}}, "exclude each other"),
        ({"scoring": {"threads": 0}}, "scoring: threads = 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        config(**changes)
    assert "\n" not in str(caught.value)


def test_settings_survive_their_json():
    own = config(
        contrasts={
            "c": {"eval": "prefer", "terms": {"aft": 1.0, "msm+aft": -1.0}, "measure": "nats"},
            "d": {"eval": "prefer", "equal_level": {"more": PAIR, "less": PAIR}},
            "e": EFFECT,
            "f": EFFECT,
            "mean": {"mean_of": ("e", "f")},
        },
        expectations={"level": {"eval": "prefer", "arm": "aft", "min": 0.5, "max": 0.9}},
    )
    again = settings.build(ExperimentConfig, json.loads(json.dumps(settings.to_json(own))))
    assert settings.to_json(again) == settings.to_json(own)
    assert graph_lib.build(again) == graph_lib.build(own)


def test_substitute_reaches_every_string():
    value = {"a": ("{world}/x", 3), "b": {"c": "y/{world}"}, "d": 1.5}
    assert substitute(value, {"world": "W"}) == {"a": ("W/x", 3), "b": {"c": "y/W"}, "d": 1.5}


# Hashes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_digests_are_equal_exactly_for_equal_values(one, other):
    again = json.loads(json.dumps(one))
    assert hashing.digest(again) == hashing.digest(one)
    assert (hashing.digest(one) == hashing.digest(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


@given(st.dictionaries(st.text(max_size=2), JSON, max_size=4))
def test_the_order_of_keys_has_no_part_in_a_digest(mapping):
    assert hashing.digest(mapping) == hashing.digest(dict(reversed(mapping.items())))


def test_changes_name_the_leaves_that_differ():
    old = {"config": {"steps": 900, "data": {"seq_len": 8}}, "seed": 1, "gone": 2}
    new = {"config": {"steps": 600, "data": {"seq_len": 8}}, "seed": 1, "new": [3]}
    assert hashing.changes(old, new) == [("config.steps", 900, 600), ("gone", 2, None), ("new", None, [3])]
    assert hashing.changes(old, old) == []


@pytest.fixture
def package(tmp_path):
    files = {
        "pkg/__init__.py": "",
        "pkg/errors.py": "",
        "pkg/training/__init__.py": "from . import table\n",
        "pkg/training/table.py": "X = 1\n",
        "pkg/training/loop.py": "import os\nfrom pkg.training import step\nfrom pkg.errors import E\n",
        "pkg/training/step.py": "def f():\n    from ..models.net import Net\n",
        "pkg/training/unused.py": "",
        "pkg/models/__init__.py": "",
        "pkg/models/net.py": "import pkg.training.loop\n",
        "pkg/models/template.jinja": "{{ x }}",
        "pkg/analysis/__init__.py": "",
        "pkg/analysis/plot.py": "from pkg.training import loop\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_sources_are_those_that_importing_runs(package):
    assert set(hashing.sources_of("pkg.training.loop", package)) == {
        "pkg/__init__.py",
        "pkg/errors.py",
        "pkg/training/__init__.py",
        "pkg/training/table.py",
        "pkg/training/loop.py",
        "pkg/training/step.py",
        "pkg/models/__init__.py",
        "pkg/models/net.py",
        "pkg/models/template.jinja",
    }


@pytest.mark.parametrize(
    ("edited", "matters"),
    [
        ("training/step.py", True),
        ("models/net.py", True),
        ("training/table.py", True),
        ("models/template.jinja", True),
        ("analysis/plot.py", False),
        ("training/unused.py", False),
    ],
)
def test_an_edit_matters_where_the_room_imports_it(package, edited, matters):
    before = hashing.sources_of("pkg.training.loop", package)
    path = package / "pkg" / edited
    path.write_text(path.read_text() + "# edited\n")
    os.utime(path, ns=(1, 1))
    assert (hashing.sources_of("pkg.training.loop", package) != before) is matters


def test_the_real_loop_imports_no_analysis():
    sources = hashing.sources_of("msm_jax.training.loop")
    rooms = {name.split("/")[1] for name in sources}
    assert {"training", "models", "parallel"} <= rooms
    assert not rooms & {"analysis", "evals", "experiments", "miniworld", "sampling"}


def test_a_measure_that_the_kind_of_an_eval_does_not_give_is_refused():
    evals = {"greedy": {"kind": "preference_greedy", "path": "pairs.jsonl"}}
    terms = {"eval": "greedy", "terms": {"aft": 1.0}}
    with pytest.raises(InputError, match=r"contrasts.c.measure: greedy is of the kind preference_greedy, which"):
        checks.check_settings(config(evals=evals, contrasts={"c": terms | {"measure": "nats"}}))
