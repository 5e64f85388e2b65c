"""Writes an experiment's report: report.json, plots/*.png and report.html.

The input is the dict documented in `msm_jax.analysis.results`. report.json has sorted keys and holds times
only under `cost` (`wall_seconds`, `device_seconds`); equal results give an otherwise equal file.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msm_jax.analysis import html, plots
from msm_jax.analysis.findings import Findings, analyse
from msm_jax.errors import WorkError


def write(results: Mapping[str, Any], out_dir: str | os.PathLike[str]) -> Findings:
    """Analyses `results` and writes the report's files into `out_dir`, each as a whole or not at all.

    Returns the findings, for `msm_jax.analysis.tables.print_report`; `findings.report` is the content of
    report.json.

    Raises:
        InputError: `results` is not of the documented form; nothing is written then.
        WorkError: a file cannot be written; what was there before is left as it was.
    """
    findings = analyse(results)
    page = html.render(findings)
    figures = plots.render(findings)
    out = Path(out_dir)
    text = json.dumps(findings.report, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    for name, data in figures.items():
        _replace(out / "plots" / name, data)
    _replace(out / "report.html", page.encode())
    # Last, so that whoever finds it finds the others beside it.
    _replace(out / "report.json", text.encode())
    return findings


def _replace(path: Path, data: bytes) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; a report is read like any other file.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise WorkError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another workdir"
        ) from error
