"""What CONTRIBUTING.md says how to add, added: its files and lines, put into a copy of the library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"In `([^`]+)`:\n\n```(python|diff)\n(.*?)```", re.DOTALL)


def add(section: str, house: Path) -> int:
    """Follow a section of CONTRIBUTING.md; returns the lines added outside the new file."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    files, lines = 0, 0
    for path, kind, body in BLOCK.findall(text):
        target = house / path
        if kind == "python":
            assert not target.exists()
            target.write_text(body)
            files += 1
            continue
        before = None
        for line in body.splitlines():
            if line.startswith("+"):
                there = target.read_text()
                assert there.count(f"{before}\n") == 1, before
                target.write_text(there.replace(f"{before}\n", f"{before}\n{line[1:]}\n"))
                lines += 1
            else:
                before = line[1:]
    assert files == 1
    return lines


def run(house: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (house, house / "cli")))}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=house)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for part in ("ncdeploy", "cli"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_solver_is_a_file_and_two_lines(house: Path) -> None:
    assert add("A solver", house) <= 2
    code = """
import numpy as np, ncdeploy
plan = ncdeploy.make_plan("halfway", 3)
assert plan == ncdeploy.solvers.halfway(plan.sigmas) and ncdeploy.solvers.halfway.order == 1
drawn = ncdeploy.sample(
    lambda x, s: x * 0 + 1, plan, seeds=[5], window=2, tolerance=0, options=ncdeploy.SampleOptions(shape=(2,))
).samples
first = ncdeploy.sample(
    lambda x, s: x * 0 + 1, plan, seeds=[5], options=ncdeploy.SampleOptions(shape=(2,))
).samples
assert np.allclose(drawn, first) and np.isfinite(drawn).all()
print(plan.name)
"""
    assert run(house, "-c", code) == "halfway-3\n"
    assert "halfway" in run(house, "-m", "ncdeploy", "sample", "--help")


def test_a_backend_is_a_file_and_two_lines(house: Path) -> None:
    assert add("A backend", house) <= 2
    (house / "a.level").write_bytes(b"LEVEL 0.25")
    code = """
import ncdeploy
with ncdeploy.open_engine("a.level") as engine:
    print(ncdeploy.sample(engine, engine.info.plan("ddim", 4), seeds=[1, 2]).samples.tolist())
try:
    ncdeploy.open_engine("a.level", threads=2)
except ncdeploy.InputError as e:
    print(e)
"""
    assert run(house, "-c", code) == "[[0.25, 0.25], [0.25, 0.25]]\na.level: a level takes no options\n"


def test_an_importer_is_a_file_and_two_lines(house: Path) -> None:
    assert add("An importer", house) <= 2
    (house / "a.points").write_text("1 2\n-1 0\n")
    done = run(house, "-m", "ncdeploy", "import", "a.points", "--sigma-data", "0.2")
    assert done.startswith("a.pt: from points, 0.00 M parameters, samples 2, ")


def test_a_graph_pass_is_a_file_and_two_lines(house: Path) -> None:
    assert add("A graph pass", house) <= 2
    code = """
import onnx, ncdeploy
from ncdeploy.denoisers.mixture import Mixture
from ncdeploy.export import denoiser
from ncdeploy.export.passes.shortcut import Shortcut

def trace(model, **given):
    graph = original(model, **given)
    product = next(n for n in graph.graph.node if n.op_type == "MatMul")
    graph.graph.node.insert(0, onnx.helper.make_node("Identity", [product.input[0]], ["again"], name="twin"))
    product.input[0] = "again"
    return onnx.shape_inference.infer_shapes(graph)

original, denoiser.trace = denoiser.trace, trace
ncdeploy.export_onnx(Mixture([[1.0, 2.0], [-1.0, 0.0]], 0.2), "m.onnx", verify=False)
graph = onnx.load("m.onnx")
assert not [n for n in graph.graph.node if n.op_type == "Identity"]
print(Shortcut()(graph)[1])
"""
    assert run(house, "-c", code) == "False\n"


def test_a_command_is_a_file_and_two_lines(house: Path) -> None:
    assert add("A command", house) <= 2
    assert run(house, "-m", "ncdeploy", "levels", "ddim", "--steps", "2", "--json").startswith('{"sigmas": [3.44')
    assert "levels" in run(house, "-m", "ncdeploy", "--help")


def test_every_kind_of_file_has_an_opener() -> None:
    from ncdeploy.backends import OPENERS
    from ncdeploy.formats.filetype import Kind

    assert set(OPENERS) == set(Kind)
