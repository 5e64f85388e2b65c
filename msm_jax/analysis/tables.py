"""The report as tables on a terminal."""

import math
from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from msm_jax.analysis import encode, reference_table, terminal
from msm_jax.analysis.findings import Findings
from msm_jax.analysis.graph import duration
from msm_jax.analysis.sentences import amount, p_text, points

_MARKS = {"met": "[green]✓[/]", "failed": "[red]✗[/]", "open": "[yellow]?[/]"}


def print_report(report: Findings | Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints arms, dose curves, contrasts, what was expected, costs and warnings; no colours outside a terminal.

    Args:
        report: the findings that `report.write` returned, or the content of a report.json, which has no sentences.
        file: the output; None for standard output.
    """
    findings = report if isinstance(report, Findings) else None
    content: Mapping[str, Any] = encode.content(report) if isinstance(report, Findings) else report
    console = terminal.console(file)
    seeds = content["seeds"]
    scope = f", {findings.results.scope}" if findings and findings.results.scope else ""
    count = "1 seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    console.print(f"\n[bold]{escape(content['experiment'])}[/]  {count}{escape(scope)}")
    console.print(_arms(content, findings))
    if any("measures" in entry for scored in content["arms"].values() for entry in scored.values()):
        console.print(_measures(content, findings))
    for name in _evals(content, findings):
        if any(scored.get(name, {}).get("rates") for scored in content["arms"].values()):
            console.print(_rates(name, content))
    for name, curve in content["curves"].items():
        console.print(_curve(name, curve))
    if content["contrasts"]:
        console.print(_contrasts(content, findings))
    if findings:
        for name, contrast in findings.contrasts.items():
            marks = "".join(
                f" {_MARKS[verdict.status]} {escape(verdict.text)}" for verdict in contrast.verdicts
            )
            console.print(f"[bold]{escape(name)}[/]{marks}\n  {escape(contrast.sentence)}")
    if content["verdicts"]:
        console.print(_expected(content))
    if content.get("reference"):
        console.print(reference_table.table(content))
    if content["arm_cost"]:
        console.print(_effects(content, findings))
    if content["cost"]:
        console.print(_cost(content))
    for warning in content["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _evals(content: Mapping[str, Any], findings: Findings | None) -> list[str]:
    if findings:
        return findings.results.evals()
    return sorted({name for scored in content["arms"].values() for name in scored})


def _measures(content: Mapping[str, Any], findings: Findings | None) -> Table:
    """Returns the arms by the measures beside the share, in one table: "62 / +0.85"."""
    arms = content["arms"]
    title = "Arms: probability of the favoured option in % / margin in nats"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("eval", no_wrap=True)
    for arm in arms:
        table.add_column(escape(arm), justify="right", overflow="fold")
    for name in _evals(content, findings):
        cells = [_measured(arms[arm].get(name, {}).get("measures", {})) for arm in arms]
        if any(cells):
            table.add_row(escape(name), *cells)
    return table


def _measured(measures: Mapping[str, Mapping[str, Any]]) -> str:
    means = {name: math.nan if entry["mean"] is None else entry["mean"] for name, entry in measures.items()}
    shown = (name for name in ("probability", "nats") if name in means)
    return " / ".join(amount(means[name], name, signed=name == "nats") for name in shown)


def _rates(name: str, content: Mapping[str, Any]) -> Table:
    """Returns the rates of an eval, with a column for each arm."""
    found = {arm: scored[name] for arm, scored in content["arms"].items() if name in scored}
    table = Table(title=f"{escape(name)}: rates of the answers", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("rate")
    for arm in found:
        table.add_column(escape(arm), justify="right", overflow="fold")
    every = {arm: {"parsed": entry.get("parse_rate"), **entry.get("rates", {})} for arm, entry in found.items()}
    for rate in dict.fromkeys(rate for own in every.values() for rate in own):
        cells = [own.get(rate) for own in every.values()]
        if any(cell is not None for cell in cells):
            table.add_row(escape(rate), *("" if cell is None else f"{cell:.2f}" for cell in cells))
    return table


def _curve(name: str, curve: Mapping[str, Any]) -> Table:
    title = f"{escape(name)}: mean in % by {escape(curve['xlabel'])}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("eval", "series"):
        table.add_column(heading)
    for x in curve["x"]:
        table.add_column(f"{x:,g}", justify="right")
    for on, series in curve["evals"].items():
        for label, levels in series.items():
            means = ["n/a" if level["mean"] is None else f"{100 * level['mean']:.0f}" for level in levels]
            table.add_row(escape(on), escape(label), *means)
    return table


def _expected(content: Mapping[str, Any]) -> Table:
    table = Table(title="What was expected", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("expectation", "of"):
        table.add_column(heading, overflow="fold")
    for heading in ("found", "95 % interval"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in content["verdicts"]:
        value, low, high = (math.nan if x is None else x for x in (row["value"], *row["ci95"]))
        of = f"{row['eval']} of {row['arm']}" if row["arm"] else row["eval"]
        found = amount(value, row["measure"], signed=not row["arm"])
        bounds = f"{amount(low, row['measure'])} to {amount(high, row['measure'])}"
        marks = ", ".join(f"{_MARKS[check['status']]} {escape(check['text'])}" for check in row["checks"])
        table.add_row(escape(row["name"]), escape(of), found, bounds, marks)
    return table


def _effects(content: Mapping[str, Any], findings: Findings | None) -> Table:
    """Returns one row for each arm: what its own phases cost, and its levels with the change that they made."""
    rows = content["arm_cost"]
    evals = [name for name in _evals(content, findings) if any(name in row["levels"] for row in rows.values())]
    title = "What one run costs and does: own phases, whole chain, levels in % (change in points)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("arm", overflow="fold")
    for heading in ("tokens", "steps", "FLOPs", "time", "time in total", *map(escape, evals)):
        table.add_column(heading, justify="right", overflow="fold")
    for arm, row in rows.items():
        own, levels = row["own"], [row["levels"].get(name) for name in evals]
        cost = [f"{own['tokens']:,.0f}", f"{own['optimizer_steps']:,.0f}", f"{own['flops']:.1e}"]
        times = [duration(row[field]["wall_seconds"]) for field in ("own", "total")]
        table.add_row(escape(arm), *cost, *times, *map(_changed, levels))
    return table


def _changed(level: Mapping[str, Any] | None) -> str:
    if level is None or level["mean"] is None:
        return "" if level is None else "n/a"
    change = "" if level["change"] is None else f" ({points(level['change'], signed=True)})"
    return f"{points(level['mean'])}{change}"


def _arms(content: Mapping[str, Any], findings: Findings | None) -> Table:
    arms, evals = content["arms"], _evals(content, findings)
    table = Table(title="Arms: mean in % ± standard error", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("eval", no_wrap=True)
    for arm in arms:
        table.add_column(escape(arm), justify="right", overflow="fold")
    for name in evals:
        table.add_row(escape(name), *(_mean(arms[arm].get(name)) for arm in arms))
    return table


def _mean(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["mean"] is None:
        return "n/a"
    sem = f" ±{100 * entry['sem']:.0f}" if entry["sem"] is not None else ""
    return f"{100 * entry['mean']:.0f}{sem}"


def _contrasts(content: Mapping[str, Any], findings: Findings | None) -> Table:
    title = "Contrasts: differences in points, or in nats where it says so"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("contrast", "eval"):
        table.add_column(heading, no_wrap=True)
    for heading in ("difference", "95 % interval", "p", "p (Holm)", "seeds", "items"):
        table.add_column(heading, justify="right")
    for name in findings.contrasts if findings else content["contrasts"]:
        entry = content["contrasts"][name]
        if entry["diff"] is None:
            numbers = ["n/a"] * 4
        else:
            measure = entry["measure"]
            low, high = (amount(bound, measure) for bound in entry["ci95"])
            nats = " nats" if measure == "nats" else ""
            diff = amount(entry["diff"], measure, signed=True) + nats
            tests = [p_text(entry[field]) for field in ("p_value", "p_holm")]
            numbers = [diff, f"{low} to {high}", *tests]
        table.add_row(
            escape(name if entry["planned"] else f"{name} (added)"),
            escape(entry["eval"]),
            *numbers,
            str(entry["n_seeds"]),
            str(entry["n_items"]),
        )
    return table


def _cost(content: Mapping[str, Any]) -> Table:
    table = Table(title="Cost", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("phase", no_wrap=True)
    for heading in ("tokens", "optimizer steps", "FLOPs", "wall time", "device time"):
        table.add_column(heading, justify="right")
    for phase, cost in content["cost"].items():
        table.add_row(
            escape(phase),
            f"{cost['tokens']:,.0f}",
            f"{cost['optimizer_steps']:,.0f}",
            f"{cost['flops']:.2e}",
            duration(cost["wall_seconds"]),
            duration(cost["device_seconds"]),
        )
    return table
