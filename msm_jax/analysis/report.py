"""Writes the report of an experiment: report.json, plots/*.png and report.html.

The input is the dict that `msm_jax.analysis.results` documents. The keys of report.json are sorted. Of its fields,
`goodput` holds times, and `cost` and `arm_cost` hold some (`wall_seconds`, `device_seconds`); apart from them, equal
results give an equal file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.analysis import dose_curves, encode, html, plots
from msm_jax.analysis.findings import Findings, analyse
from msm_jax.foundation import storage


def write(results: Mapping[str, Any], out_dir: str | os.PathLike[str]) -> Findings:
    """Analyses `results` and writes the report's files into `out_dir`, each as a whole or not at all.

    Returns the findings, for `msm_jax.analysis.tables.print_report`.

    Raises:
        InputError: `results` is not of the documented form; nothing is written then.
        WorkError: a file cannot be written; an earlier version of it stays as it was.
    """
    findings = analyse(results)
    page = html.render(findings)
    figures = plots.render(findings) | dose_curves.render(findings)
    out = Path(out_dir)
    text = json.dumps(encode.content(findings), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    for name, data in figures.items():
        storage.write_bytes(out / "plots" / name, data)
    storage.write_bytes(out / "report.html", page.encode())
    # Written last: where it exists, the other files exist too.
    storage.write_bytes(out / "report.json", text.encode())
    return findings
