"""The files that a data path names: on this machine, in a bucket, or of a public data set that is already downloaded.

    data/docs.jsonl, data/*.jsonl.gz        local files, comma lists and globs of them
    gs://bucket/docs-*.parquet              any storage that fsspec reads; gs:// needs the package gcsfs
    hf://datasets/OWNER/NAME[@REVISION]/FILE   a Hugging Face data set in the cache that `hf download` fills;
                                            nothing is downloaded here

Other modules name a file by a string, its local path or its URL.
"""

import glob
import os
import re
from pathlib import Path, PurePosixPath

from msm_jax.errors import InputError
from msm_jax.foundation import storage

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_HUB = "hf://"
_HUB_FILE = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(path: str) -> list[str]:
    """Expands a data path (a file, a comma list of files, or globs) to the sorted list of distinct files.

    At a URL with a glob this lists a bucket, so call it once and hand the files on.

    Raises:
      InputError: nothing matches, a file is missing, or a name does not end in one of `SUFFIXES`.
      WorkError: the storage does not answer.
    """
    found: set[str] = set()
    for part in (p.strip() for p in path.split(",")):
        if part:
            found.update(_expand(_of_hub(part) if part.startswith(_HUB) else part))
    if not found:
        raise InputError("path is empty; give a data file, a comma list of files, or a glob")
    for file in found:
        if not file.endswith(SUFFIXES):
            raise InputError(f"{file}: not a data file; its name must end in {', '.join(SUFFIXES)}")
    return sorted(found, key=PurePosixPath)


def _expand(path: str) -> list[str]:
    if storage.is_url(path):
        with storage.reading(path):
            files = storage.file_system(path)
            matches = files.glob(path) if glob.has_magic(path) else [path] if files.isfile(path) else []
            matches = [files.unstrip_protocol(match) for match in matches]
    elif glob.has_magic(path):
        matches = glob.glob(path, recursive=True)
    else:
        matches = [path] if Path(path).is_file() else []
    if not matches:
        problem = "no file matches" if glob.has_magic(path) else "no such file"
        raise InputError(f"{path}: {problem}; check the path")
    return [match if storage.is_url(match) else str(Path(match)) for match in matches]


def _of_hub(url: str) -> str:
    """Returns the path in the Hugging Face cache of a file of a data set; a glob stays a glob.

    Raises:
      InputError: the URL has another form, or the file was not downloaded.
    """
    match = _HUB_FILE.fullmatch(url)
    if match is None:
        raise InputError(f"{url}: not of the form hf://datasets/OWNER/NAME[@REVISION]/FILE; correct it")
    name, revision, file = match["name"], match["revision"] or "main", match["file"]
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"datasets--{name.replace('/', '--')}"
    commit = revision
    if not _COMMIT.fullmatch(revision):
        ref = repository / "refs" / revision
        commit = ref.read_text().strip() if ref.is_file() else ""
    local = repository / "snapshots" / commit / file
    if commit and (local.is_file() or (glob.has_magic(file) and glob.glob(str(local), recursive=True))):
        return str(local)
    include = f"--include '{file}'" if glob.has_magic(file) else file
    raise InputError(
        f"{url}: not in {cache}; check its licence, and download it with: "
        f"hf download {name} {include} --repo-type dataset --revision {revision}"
    )
