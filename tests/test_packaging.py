"""requirements.txt names what the code imports and nothing else, and gives each line its reason."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Pinned for what they do without being imported: runtimes, storage, tools, the notebook and its build.
WITHOUT_IMPORT = {"jaxlib", "tensorstore", "pytest-xdist", "ipython", "ruff", "mypy", "setuptools"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> list[tuple[str, str, str]]:
    """(name, version, rest of the line) of every line of requirements.txt that pins something."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [re.fullmatch(r"([\w.-]+)==([\w.]+)(.*)", line) for line in lines if line and line[0] != "#"]
    assert all(found), "a line of requirements.txt is not an exact pin"
    return [match.groups() for match in found if match]


def imported() -> dict[str, str]:
    """Distribution -> one file that imports it, over the package, the configs and the tests."""
    owners = metadata.packages_distributions()
    found: dict[str, str] = {}
    folders = [ROOT / name for name in ("msm_jax", "configs", "tests", "tools")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - {"msm_jax", "configs", "tools"}:
                if top not in sys.stdlib_module_names and not (ROOT / "tests" / f"{top}.py").exists():
                    for owner in owners.get(top, [top]):
                        found.setdefault(normal(owner), str(path.relative_to(ROOT)))
    return found


def test_every_import_is_pinned():
    pinned = {normal(name) for name, _, _ in pins()}
    missing = {owner: path for owner, path in imported().items() if owner not in pinned}
    assert not missing, f"imported without a line in requirements.txt: {missing}"


def test_every_pin_is_used():
    unused = {normal(name) for name, _, _ in pins()} - set(imported()) - WITHOUT_IMPORT
    assert not unused, f"lines of requirements.txt that nothing imports: {unused}"


def test_every_pin_has_its_reason():
    without = {name for name, _, _ in pins()} - {name for name, _, rest in pins() if " # " in rest}
    assert not without, f"lines of requirements.txt without a comment: {without}"


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_one_version_of_each_package_applies(version: tuple[int, int]):
    """The markers split Python versions at 3.12 without gap or overlap."""
    marker = '; python_version < "3.12"' if version < (3, 12) else '; python_version >= "3.12"'
    names = [name for name, _, rest in pins() if "python_version" not in rest or marker in rest]
    assert sorted(names) == sorted({name for name, _, _ in pins()})
