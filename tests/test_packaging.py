"""requirements.txt names what the code imports and nothing else, and gives each line its reason."""

import ast
import functools
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Pinned for what they do without being imported: runtimes, storage, tools, the notebook and its build.
WITHOUT_IMPORT = {"jaxlib", "pytest-xdist", "ipython", "ruff", "mypy", "setuptools"}

FOLDERS = ("msm_jax", "configs", "tools", "tests", "benchmarks")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str = "requirements.txt") -> list[tuple[str, str, str]]:
    """(name, version, rest of the line) of every line of a requirements file that pins something."""
    lines = (ROOT / file).read_text().splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)(.*)", line) for line in lines if line and line[0] != "#"]
    assert all(found), f"a line of {file} is not an exact pin"
    return [match.groups() for match in found if match]


@functools.cache
def imported() -> dict[str, str]:
    """Distribution -> one file that imports it, the package's own files first."""
    owners = metadata.packages_distributions()
    found: dict[str, str] = {}
    folders = [ROOT / name for name in FOLDERS]
    ours = {*FOLDERS, *(path.stem for folder in folders for path in folder.glob("*.py"))}
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - ours:
                if top not in sys.stdlib_module_names:
                    for owner in owners.get(top, [top]):
                        found.setdefault(normal(owner), str(path.relative_to(ROOT)))
    return found


def test_every_import_is_pinned():
    """Scripts of tests and benchmarks may import the reference stack; they run in its environment."""
    pinned = {normal(name) for name, _, _ in pins()}
    beside = ("requirements-ref.txt", "requirements-tunix.txt")
    # What google-tunix installs is imported as tunix.
    reference = {normal(name) for file in beside for name, _, _ in pins(file)} | {"tunix"}
    missing = {
        owner: path
        for owner, path in imported().items()
        if owner not in pinned and (owner not in reference or not path.startswith(("tests", "benchmarks")))
    }
    assert not missing, f"imported without a line in requirements.txt: {missing}"


def test_every_pin_is_used():
    unused = {normal(name) for name, _, _ in pins()} - set(imported()) - WITHOUT_IMPORT
    assert not unused, f"lines of requirements.txt that nothing imports: {unused}"


def test_every_pin_has_its_reason():
    lines = [*pins(), *pins("requirements-ref.txt")]
    without = {name for name, _, _ in lines} - {name for name, _, rest in lines if " # " in rest}
    assert not without, f"pins without a comment: {without}"


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_one_version_of_each_package_applies(version: tuple[int, int]):
    """The markers split Python versions at 3.12 without gap or overlap."""
    marker = '; python_version < "3.12"' if version < (3, 12) else '; python_version >= "3.12"'
    names = [name for name, _, rest in pins() if "python_version" not in rest or marker in rest]
    assert sorted(names) == sorted({name for name, _, _ in pins()})
