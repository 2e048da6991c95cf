"""README.md's commands and Python, typed as they stand, each in a folder that holds what the lines before it made."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ncdeploy import make_bundle, make_plan, save_model
from ncdeploy.denoisers import Mixture
from ncdeploy_cli.main import app
from oracle import digits
from tiny_models import write_mixture

TEXT = (Path(__file__).resolve().parents[1] / "README.md").read_text()
LINE = re.compile(r"^    ncdeploy (.+?)(?: +#.*)?$", re.MULTILINE)
MINUTES = ("train", "bench")


def commands() -> Iterator[object]:
    for line in LINE.findall(TEXT):
        name = line.split()[0]
        yield pytest.param(line, id=name, marks=[pytest.mark.slow] if name in MINUTES else [])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pt, model.onnx and bundle/, of an exact denoiser that takes no time."""
    folder = tmp_path_factory.mktemp("readme")
    model = Mixture(digits().means[:10].reshape(10, 1, 8, 8), 0.1)
    save_model(folder / "model.pt", model)
    write_mixture(folder / "model.onnx", model.info, model.means.numpy())
    make_bundle(folder / "model.onnx", folder / "bundle", plans=[make_plan("ddim", 10)])
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_works_as_it_stands(here: Path, line: str) -> None:
    words = shlex.split(line)
    output = here / words[words.index("-o") + 1] if "-o" in words else None
    if output is not None and output.exists():
        (shutil.rmtree if output.is_dir() else Path.unlink)(output)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert output is None or output.exists()


def test_every_command_is_found() -> None:
    section = TEXT.split("## On the command line\n")[1].split("\n## ")[0]
    assert len(LINE.findall(section)) == section.count("\n    ncdeploy ") >= 9


def test_the_python_lines_work_as_they_stand(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    calls, evaluations, difference = capsys.readouterr().out.splitlines()
    fewer, what, all_of_them = calls.partition(" calls instead of ")
    assert int(fewer) < int(all_of_them) / 10, what
    assert float(evaluations.split()[-1]) <= 1e-3
    assert float(difference) <= 1e-2
    assert (here / "samples.png").exists()
    assert np.isfinite(names["fast"].samples).all()  # type: ignore[attr-defined]
