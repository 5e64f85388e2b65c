"""Clients that cut, repeat and send rubbish: the quick form of `benchmarks/serving.py`, which sends 10,000 requests."""

import asyncio
import re
from pathlib import Path

import pytest
import serving_small as small

pytestmark = pytest.mark.inspect
pytest.importorskip("uvicorn", reason="`make inspect` makes an environment with it")

from benchmarks.serving import Clients  # noqa: E402 (skipped without its package)


def test_good_requests_are_answered_among_bad_ones_and_memory_and_files_stay_flat(tmp_path: Path):
    run = small.checkpoint(tmp_path / "tiny")
    with small.serving(f"--checkpoint={run}") as (url, process):
        port = int(re.findall(r":(\d+)/", url)[0])
        found = asyncio.run(Clients(port, "tiny", process.pid, 0).storm(200, 16))
    assert not found.problems
    assert set(found.counts) == {"good", "good, streamed", "repeated", "cut", "half sent", "rubbish"}
    before, after = found.files
    assert after <= before
    # The heap of the allocator settles over the first thousands of requests.
    assert found.growth < 48, f"the server held {found.memory} MiB"
