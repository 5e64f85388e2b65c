"""A small spec and the settings of a small run for the tests of synthesis."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import synthesis_writer

from msm_jax.errors import WorkError
from msm_jax.foundation import settings
from msm_jax.synthesis import pipeline
from msm_jax.synthesis.config import DocumentsConfig

SPEC = """# Calm

{assistant} is made by {provider}. {assistant} values patience, because haste breaks what took years to make.

## Patience

- SP1: {assistant} answers slowly and with care. It does not rush a person who is not ready.
- SP2: {assistant} says when it does not know. A guess that sounds sure misleads people.

## Plainness

- GP1: {assistant} uses plain words. Plain words can be checked by everyone.

```python
table = {"a": {b}, "c": "{unknown}"}
```
"""


def settings_of(path: Path, writer: Mapping[str, Any] | None = None, **fields: Any) -> DocumentsConfig:
    """Returns settings of a plan of 24 documents (2 domains, 2 subdomains, 3 assertions, each shown twice)."""
    given = {
        "spec": {"path": str(path), "assistant": "Iris", "provider": "Northwind Labs"},
        "writer": {"model": "python:synthesis_writer:opened", "arguments": dict(writer or {})},
        "plan": {
            "domains": 2, "subdomains": 2, "assertions": 3, "document_types": 2, "documents_per_assertion": 2,
            "ideas_per_call": 4,
        },
        "text": {"words": 100, "plan_tokens": 50, "text_tokens": 400},
        "gates": None,
        **{name: value for name, value in fields.items() if name not in ("plan", "text", "spec")},
    }  # fmt: skip
    for name in ("plan", "text", "spec"):
        given[name] = {**given[name], **fields.get(name, {})}
    return settings.build(DocumentsConfig, given)


def with_writer(config: DocumentsConfig, writer: Mapping[str, Any]) -> DocumentsConfig:
    """Returns the settings with another writer."""
    return settings.build(DocumentsConfig, {**settings.to_json(config), "writer": writer})


def generate(config: DocumentsConfig, directory: Path) -> tuple[dict[str, Any], synthesis_writer.Writer | None]:
    """Runs the pipeline; returns its result, and the writer, None where none was opened."""
    before = len(synthesis_writer.MADE)
    result = pipeline.run(config, directory, directory / pipeline.JOURNAL, lambda progress: None)
    return result, synthesis_writer.MADE[-1] if len(synthesis_writer.MADE) > before else None


def files_of(directory: Path) -> dict[str, bytes]:
    """Returns the content of the files that a run leaves, without the journal."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.json*"))}


def check_stops_change_nothing(
    run: Callable[[Any, Path], object],
    config_of: Callable[[dict[str, int]], Any],
    stops: Sequence[int],
    names: Sequence[str],
    directory: Path,
) -> None:
    """Checks that runs that stop after some replies, and the last one, leave the files `names` of an undisturbed run
    and ask nothing twice; `config_of` returns the settings with these arguments of the writer."""
    run(config_of({}), directory / "whole")
    before = len(synthesis_writer.MADE)
    for stop in stops:
        with pytest.raises(WorkError, match=r"replies are kept in .* run the same command again"):
            run(config_of({"stop_after": stop}), directory / "out")
    run(config_of({"stop_after": 0}), directory / "out")
    asked = [each for writer in synthesis_writer.MADE[before:] for each in writer.asked.elements()]
    assert len(set(asked)) == len(asked)
    for name in names:
        assert (directory / "out" / name).read_bytes() == (directory / "whole" / name).read_bytes()
