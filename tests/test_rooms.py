"""The rooms of the library and the arrows between them: an arrow points downward only, lazily or not."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "ncdeploy"

# From the ground up; a room may import those before it. What is not listed does not exist.
ROOMS = (
    "version", "errors", "files", "records", "ports", "sampling", "modelinfo", "drawing", "report", "result",
    "formats", "guidance", "denoisers", "importers", "training", "backends", "auto", "run", "parity", "health",
    "bulk", "export", "evaluation", "build", "bundle", "inspection", "doctor", "serving", "demo",
)  # fmt: skip
FACE = "__init__"  # ncdeploy itself, which shows names of any room; no room looks there


def room_of(module: str) -> str:
    """The room of "ncdeploy.room.module"."""
    return module.split(".")[1] if "." in module else FACE


def imports(path: Path, module: str) -> list[tuple[int, str]]:
    """(line, module) of every import of ncdeploy in a file, at its top, in functions and under TYPE_CHECKING."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "ncdeploy" else [base]
            found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] == "ncdeploy"]


def arrows_that_are_not_allowed(source: Path) -> list[str]:
    wrong = []
    for path in sorted(source.rglob("*.py")):
        module = ".".join(["ncdeploy", *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__")
        room = room_of(module)
        for line, name in imports(path, module):
            to = room_of(name)
            if room not in (to, FACE) and (to not in ROOMS or ROOMS.index(to) > ROOMS.index(room)):
                wrong.append(f"{path.relative_to(source)}:{line} {room} -> {to}")
    return wrong


def test_every_room_is_known() -> None:
    there = {p.stem for p in LIBRARY.iterdir() if (p.is_dir() and any(p.glob("*.py"))) or p.suffix == ".py"}
    assert there - {FACE, "__main__"} == set(ROOMS)


def test_no_arrow_points_upward() -> None:
    assert arrows_that_are_not_allowed(LIBRARY) == []


@pytest.mark.parametrize(
    "line",
    [
        "from ncdeploy.run import sample",
        "import ncdeploy.run",
        "from ncdeploy import sample",
        "from ..run import sample",
        "from ncdeploy.sampling.nowhere import x\n    from ncdeploy.nowhere import x",
        "import ncdeploy",
    ],
)
def test_an_arrow_upward_is_found_wherever_it_stands(tmp_path: Path, line: str) -> None:
    room = tmp_path / "sampling"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "a.py").write_text(f"def later():\n    {line}\n")
    assert len(arrows_that_are_not_allowed(tmp_path)) == 1
