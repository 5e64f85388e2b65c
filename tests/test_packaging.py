"""requirements.txt names what the code imports and nothing else, and gives each line its reason. What only some users
need is an extra: requirements-inspect.txt pins it, and it is imported only where it is used."""

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

# Pinned there because a library imports it on our behalf.
EXTRAS_WITHOUT_IMPORT = {"openai"}
# The requirements of an extra: a name in setup.py's extras_require -> the file that pins it.
EXTRAS = {
    "inspect": "requirements-inspect.txt", "serve": "requirements-serve.txt", "ray": "requirements-ray.txt",
}

# Modules that only the library of an extra imports, through an entry point that setup.py declares.
BEHIND_ENTRY_POINTS = {
    "msm_jax/inspect_registry.py",
    "msm_jax/evals/inspect_models.py",
    "msm_jax/evals/inspect_tasks.py",
    "msm_jax/serving/inspect_entry.py",
    "msm_jax/serving/inspect_provider.py",
}

FOLDERS = ("msm_jax", "launch", "configs", "tools", "tests", "benchmarks")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str = "requirements.txt") -> list[tuple[str, str, str]]:
    """(name, version, rest of the line) of every line of a requirements file that pins something."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("-r ")]
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


def extras() -> set[str]:
    """Returns the distributions that the files of extras pin."""
    return {normal(name) for file in EXTRAS.values() for name, _, _ in pins(file)}


def test_every_import_is_pinned():
    """Scripts of tests and benchmarks may import the reference stack; they run in its environment."""
    pinned = {normal(name) for name, _, _ in pins()} | extras()
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
    lines = [*pins(), *pins("requirements-ref.txt"), *(pin for file in EXTRAS.values() for pin in pins(file))]
    without = {name for name, _, _ in lines} - {name for name, _, rest in lines if " # " in rest}
    assert not without, f"pins without a comment: {without}"


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_one_version_of_each_package_applies(version: tuple[int, int]):
    """The markers split Python versions at 3.12 without gap or overlap."""
    marker = '; python_version < "3.12"' if version < (3, 12) else '; python_version >= "3.12"'
    names = [name for name, _, rest in pins() if "python_version" not in rest or marker in rest]
    assert sorted(names) == sorted({name for name, _, _ in pins()})


def test_an_extra_is_imported_only_inside_functions_of_the_package():
    """So `make demo`, and every command that does not use it, runs without it."""
    owners = metadata.packages_distributions()
    wrong = []
    for path in sorted((ROOT / "msm_jax").rglob("*.py")):
        if str(path.relative_to(ROOT)) in BEHIND_ENTRY_POINTS:
            continue
        inside = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        inside += [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef)]
        spans = [(node.lineno, node.end_lineno or node.lineno) for node in inside]
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names}:
                is_extra = extras() & {normal(owner) for owner in owners.get(top, [top])}
                if is_extra and not any(first <= node.lineno <= last for first, last in spans):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {top}")
    assert not wrong, "\n".join(wrong)


def test_modules_behind_entry_points_are_imported_by_nothing_of_ours_but_each_other():
    names = {Path(name).stem for name in BEHIND_ENTRY_POINTS}
    importers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "msm_jax").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and names & {(node.module or "").split(".")[-1], *(alias.name for alias in node.names)}
    }
    assert importers <= BEHIND_ENTRY_POINTS
    assert "msm_jax.inspect_registry" in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize(("extra", "file"), EXTRAS.items())
def test_an_extra_of_the_package_names_what_its_file_pins(extra: str, file: str):
    """And the file includes requirements.txt, so that one environment has both."""
    text = (ROOT / file).read_text()
    assert "-r requirements.txt" in text.splitlines()
    declared = re.search(rf'"{extra}": \[([^\]]*)\]', (ROOT / "setup.py").read_text())
    assert declared, f"setup.py has no extra {extra}"
    names = {normal(name) for name in re.findall(r'"([\w-]+)>=', declared[1])}
    assert names == {normal(name) for name, _, _ in pins(file)}


def test_every_pin_of_an_extra_is_used():
    """Beside what a library of the extra imports itself."""
    unused = extras() - set(imported()) - EXTRAS_WITHOUT_IMPORT
    assert not unused, f"pins of extras that nothing imports: {unused}"
