"""docs/sampling.md: every command and program on it runs as it is printed, but for the port."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import serving_small as small

pytestmark = [pytest.mark.inspect, pytest.mark.slow]
pytest.importorskip("inspect_evals", reason="`make inspect` makes an environment with it")

BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", (small.ROOT / "docs/sampling.md").read_text(), re.M | re.S)


def test_every_command_of_the_page_runs(tmp_path: Path):
    runs = tmp_path / "runs"
    small.policy(runs / "smollm2", "A", " lamp", ".")
    small.adapter(runs / "kind", runs / "smollm2")
    small.policy(runs / "judge", "<answer>", "no", "</answer>")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = small.environment(PATH=path, INSPECT_DISPLAY="plain")
    (served,) = (text for _, text in BLOCKS if "msm_jax.serve" in text)
    flags = served.split("msm_jax.serve ")[1].replace("--port=8000", "--port=0").split()
    with small.serving(*flags, cwd=tmp_path) as (url, _):
        for language, text in BLOCKS:
            if text == served:
                continue
            program = text.replace("http://127.0.0.1:8000/v1", url)
            command = [sys.executable, "-c", program] if language == "python" else ["bash", "-ec", program]
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=600
            )
            assert done.returncode == 0, program + done.stdout + done.stderr
            assert "rror" not in done.stdout, program + done.stdout
    assert len(BLOCKS) == 5
