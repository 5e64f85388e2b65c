"""The tree keeps to docs/architecture.md: imports follow its table, and what must stay out stays out."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "msm_jax"
ENTRY = "entry points"
# What every room may import.
EVERYWHERE = {"errors", "foundation"}
REFERENCE_ONLY = {"torch", "transformers", "peft", "accelerate"}


def table() -> dict[str, set[str]]:
    """room -> rooms it may import, as docs/architecture.md has it; `ENTRY` stands for msm_jax/*.py."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| .* \| ([^|]+) \|$", text, re.MULTILINE)
    allowed: dict[str, set[str]] = {}
    for name, may in rows:
        room = ENTRY if name == "msm_jax/*.py" else name.removeprefix("msm_jax/").rstrip("/")
        if room == "errors.py":
            continue
        if may == "all rooms":
            allowed[room] = {row.rstrip("/") for row, _ in rows}
        elif may == "everything above":
            allowed[room] = set(allowed)
        else:
            allowed[room] = set() if may.startswith("nothing of ours") else {word.strip() for word in may.split(",")}
    return allowed


TABLE = table()


def room_of(module: str) -> str:
    """`msm_jax.data.loader` -> data, `msm_jax.cli` -> entry points, `msm_jax.errors` -> errors."""
    parts = module.split(".")
    if len(parts) == 1:
        return "msm_jax"
    return parts[1] if parts[1] == "errors" or parts[1] in TABLE else ENTRY


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a file, nested and type-checking ones too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from msm_jax import data` names a room by its alias; a deeper alias may be a function, no harm.
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def tracked(*patterns: str) -> list[Path]:
    """Files of the tree that git does not ignore, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def misdirected(path: Path, room: str) -> list[str]:
    """One line per import of `path` that points at a room which `room` may not import."""
    may = sorted(TABLE[room]) or "nothing of ours"
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}, but {room} may import {may}"
        for line, name in imports(path)
        if name.split(".")[0] == "msm_jax"
        and room_of(name) not in {room, *EVERYWHERE, "msm_jax", *TABLE[room]}
        and name != "msm_jax.__version__"
    ]


def test_table_names_every_room_that_exists():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(TABLE), "docs/architecture.md lacks a row"
    named = set().union(*(may for room, may in TABLE.items() if room != ENTRY))
    assert named <= set(TABLE), "the table lets a room import one that it does not describe"


def test_table_has_no_cycle_between_rooms():
    allowed = {room: may - {ENTRY} for room, may in TABLE.items() if room != ENTRY}
    done: set[str] = set()
    while ready := {room for room, may in allowed.items() if room not in done and may <= done}:
        done |= ready
    assert done == set(allowed), f"rooms that import each other: {set(allowed) - done}"


def test_imports_follow_the_arrows():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).parts
        room = inside[0] if len(inside) > 1 else ENTRY
        if inside == ("errors.py",):
            wrong += [f"{path}:{line} imports {name}" for line, name in imports(path) if "msm_jax" in name]
        else:
            wrong += misdirected(path, room)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "room", "is_wrong"),
    [
        ("from msm_jax.training import loop", "models", True),
        ("from msm_jax import training", "models", True),
        ("import msm_jax.cli", "data", True),
        ("def f():\n    from ..sampling import engine", "training", True),
        ("from msm_jax.parallel.mesh import MeshConfig", "models", False),
        ("from msm_jax.errors import InputError", "data", False),
        ("from . import sources\nimport numpy as np", "data", False),
    ],
)
def test_an_import_against_the_arrows_is_seen(source, room, is_wrong, tmp_path, monkeypatch):
    monkeypatch.setattr("test_rooms.ROOT", tmp_path)
    path = tmp_path / "msm_jax" / room / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert bool(misdirected(path, room)) is is_wrong


def test_launchers_follow_their_row_and_nothing_imports_them():
    wrong = [line for path in tracked("launch/*.py") for line in misdirected(path, "launch")]
    wrong += [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in tracked("msm_jax/*.py", "configs/*.py", "benchmarks/*.py", "tools/*.py")
        for line, name in imports(path)
        if name.split(".")[0] == "launch"
    ]
    assert not wrong, "\n".join(wrong)


def test_configs_import_ml_collections_and_each_other_only():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in tracked("configs/*.py")
        for line, name in imports(path)
        if name.split(".")[0] not in {"ml_collections", "configs"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reference_stack_is_never_imported():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, name in imports(path)
        if name.split(".")[0] in REFERENCE_ONLY
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_a_grab_bag():
    names = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert not [str(path) for path in tracked() if path.name in names]


def test_no_file_names_a_machine():
    """Absolute paths of the places where people keep checkouts and homes do not belong in the product."""
    places = re.compile(r"(?<![\w.:/-])/(?:work|root|home|Users|farm|opt/pypi|mnt)/\w")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path.suffix not in {".png", ".npz", ".model"} and path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if places.search(line)
    ]
    assert not wrong, "\n".join(wrong)
