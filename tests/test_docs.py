"""The documentation: its commands exist, its Python compiles and imports what is public, the tutorial works."""

import ast
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import ncdeploy
from ncdeploy_cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "engines" / "README.md"]
COMMAND = re.compile(r"^(?: {4})?ncdeploy (\S.*?)(?:\s+#.*)?$", re.MULTILINE)
TUTORIAL = ROOT / "docs" / "tutorial.md"


def commands(page: Path) -> list[str]:
    text = page.read_text().replace("\\\n", " ")
    indented = re.findall(r"^ {4}ncdeploy .*$", text, re.MULTILINE)
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return COMMAND.findall("\n".join([*indented, *fenced]))


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_and_their_options_exist(page: Path) -> None:
    every = typer.main.get_command(app).commands
    for line in commands(page):
        name, *words = shlex.split(line)
        assert name in every, line
        known = {option for parameter in every[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


def test_commands_are_found() -> None:
    assert len(commands(TUTORIAL)) == TUTORIAL.read_text().count("\n    ncdeploy ") >= 7
    assert any("--runtime rtx" in line for line in commands(ROOT / "docs" / "guide.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_python_compiles_and_imports_what_is_public(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "ncdeploy":
                assert {alias.name for alias in node.names} <= set(ncdeploy.__all__)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ncdeploy."):
                pytest.fail(f"{page.name}: imports from {node.module}; everything users need is in ncdeploy")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ncdeploy":
                assert node.attr in ncdeploy.__all__


def test_the_reference_has_every_public_name_once() -> None:
    names = re.findall(r"^::: ncdeploy\.(\w+)$", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(set(ncdeploy.__all__) - {"__version__"})


@pytest.mark.parametrize("name", sorted(set(ncdeploy.__all__) - {"__version__"}))
def test_what_is_public_is_documented_with_its_methods(name: str) -> None:
    found = getattr(ncdeploy, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found):
        for member, value in vars(found).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(getattr(found, member)), f"{name}.{member}"


@pytest.mark.slow
def test_the_tutorial_works_as_typed(tmp_path: Path) -> None:
    """Its commands and Python, in order, in a folder that has nothing but the repository's C++ beside."""
    shutil.copytree(ROOT / "engines", tmp_path / "engines")
    activate = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    pieces = re.findall(r"^ {4}(\S[^\n]*)$|^```python\n(.*?)^```", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    script = "\n".join(line or f"python - <<'END'\n{code}END" for line, code in pieces)
    done = subprocess.run(["bash", "-euc", f"{activate}\n{script}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "shipped.png").stat().st_size > 500
    assert len(list(tmp_path.glob("sample-*.pgm"))) == 4
