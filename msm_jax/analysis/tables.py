"""The report as tables on a terminal."""

from collections.abc import Mapping
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from msm_jax.analysis import encode, terminal
from msm_jax.analysis.findings import Findings
from msm_jax.analysis.graph import duration
from msm_jax.analysis.html import p_text
from msm_jax.analysis.sentences import amount

_MARKS = {"met": "[green]✓[/]", "failed": "[red]✗[/]", "open": "[yellow]?[/]"}


def print_report(report: Findings | Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints arms, contrasts, cost and warnings, as plain text where the output is not a terminal.

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
    if content["contrasts"]:
        console.print(_contrasts(content, findings))
    if findings:
        for name, contrast in findings.contrasts.items():
            marks = "".join(
                f" {_MARKS[verdict.status]} {escape(verdict.text)}" for verdict in contrast.verdicts
            )
            console.print(f"[bold]{escape(name)}[/]{marks}\n  {escape(contrast.sentence)}")
    if content["cost"]:
        console.print(_cost(content))
    for warning in content["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _arms(content: Mapping[str, Any], findings: Findings | None) -> Table:
    arms = content["arms"]
    evals = (
        findings.results.evals()
        if findings
        else sorted({name for scored in arms.values() for name in scored})
    )
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
    for heading in ("difference", "95 % interval", "p", "seeds", "items"):
        table.add_column(heading, justify="right")
    for name in findings.contrasts if findings else content["contrasts"]:
        entry = content["contrasts"][name]
        if entry["diff"] is None:
            numbers = ["n/a", "n/a", "n/a"]
        else:
            measure = entry["measure"]
            low, high = (amount(bound, measure) for bound in entry["ci95"])
            nats = " nats" if measure == "nats" else ""
            diff = amount(entry["diff"], measure, signed=True) + nats
            numbers = [diff, f"{low} to {high}", p_text(entry["p_value"])]
        table.add_row(
            escape(name), escape(entry["eval"]), *numbers, str(entry["n_seeds"]), str(entry["n_items"])
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
