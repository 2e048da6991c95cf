"""The command itself: fast help, no heavy imports, errors as one line, interruption, and a machine without torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ncdeploy
from ncdeploy.errors import NcdeployError
from ncdeploy_cli.main import app

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "train", "import", "export", "build", "verify", "check", "bundle", "triton", "sample", "denoise", "serve", "tune",
    "demo", "evaluate", "bench", "inspect", "doctor",
)  # fmt: skip


def _python(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_help_lists_every_command_and_every_command_has_help(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = run("--help")
    assert done.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert "Usage" in shown.stdout
        assert "…" not in shown.stdout, "no name or sentence is cut at 80 columns"
    assert "Usage" in run().output


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ncdeploy', '--help']\n"
        "from ncdeploy_cli.main import main\n"
        "try: main()\n"
        "except SystemExit as e: assert not e.code\n"
        "print('LOADED', [m for m in ('torch', 'numpy', 'onnx', 'onnxruntime', 'PIL', 'sklearn') if m in sys.modules])"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.timing
def test_help_comes_at_once(tmp_path):
    """At most 0.15 s of processor time over the help of an empty typer application, which itself takes about 0.2 s.

    Processor time and the best of eight, taken in turn, because the machine may be busy with something else; compiled,
    as whatever is installed is.
    """
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(code: str) -> float:
        told = (
            "import atexit, sys, time\n"
            "atexit.register(lambda: print('SECONDS', time.process_time()))\n"
            "sys.argv = ['ncdeploy', '--help']\n"
        )
        return float(_python(told + code, **compiled).stdout.rpartition("SECONDS")[2])

    empty = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"
    runs = [(seconds("from ncdeploy_cli.main import main; main()"), seconds(empty)) for _ in range(8)]
    ours, others = (min(each) for each in zip(*runs, strict=True))
    assert ours - others < 0.15


def test_help_and_completion_are_where_shells_look(run):
    assert "ncdeploy --install-completion" in " ".join(run("--help").stdout.split())
    done = _python(
        "from ncdeploy_cli.main import main; main()",
        _NCDEPLOY_COMPLETE="complete_bash",
        COMP_WORDS="ncdeploy be",
        COMP_CWORD="1",
    )
    assert "bench" in done.stdout


def test_version(run):
    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout == f"ncdeploy {ncdeploy.__version__}\n"


def test_errors_of_the_library_become_one_line_unless_asked_for(run, tmp_path):
    done = run("sample", "-e", tmp_path / "missing\nfile.onnx")
    assert (done.exit_code, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.output
    shown = run("--debug", "sample", "-e", tmp_path / "missing.onnx")
    assert isinstance(shown.exception, NcdeployError)


def test_a_defect_is_not_dressed_up_as_an_error(run, models, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("ncdeploy.backends.open_engine", broken)
    assert isinstance(run("sample", "-e", models["image"]).exception, ZeroDivisionError)


def test_interruption_exits_with_130_and_leaves_nothing(run, models, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ncdeploy.backends.onnxruntime.OnnxRuntimeBackend.__call__", interrupted)
    assert run("sample", "-e", models["image"]).exit_code == 130
    assert [p for p in tmp_path.iterdir() if p.name != "cache"] == []


NO_TORCH = (
    "import sys\n"
    "class Absent:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.split('.')[0] in {'torch', 'onnx', 'onnxscript', 'accelerate', 'sklearn', 'scipy', 'diffusers'}:\n"
    "            raise ModuleNotFoundError(f'no module named {name}', name=name)\n"
    "sys.meta_path.insert(0, Absent())\n"
    "sys.argv[0] = 'ncdeploy'\n"
    "from ncdeploy_cli.main import main\n"
    "main()\n"
)


def test_sampling_from_onnx_needs_no_torch(models, tmp_path):
    target = str(tmp_path / "s.npz")
    done = _python(NO_TORCH, "sample", "-e", str(models["image"]), "--parallel", "-n", "4", "-o", target)
    assert done.returncode == 0, done.stderr
    with np.load(target) as archive:
        assert archive["samples"].shape == (4, 1, 8, 8)
    sheet = _python(NO_TORCH, "sample", "-e", str(models["image"]), "-n", "4", "-o", str(tmp_path / "s.png"))
    assert sheet.returncode == 0, sheet.stderr


@pytest.mark.parametrize("command", [["train", "--data", "digits", "-o", "m.pt"], ["demo", "-o", "d"]])
def test_without_torch_the_line_that_installs_it_is_shown(tmp_path, command):
    done = _python(NO_TORCH, *command[:-1], str(tmp_path / command[-1]))
    assert done.returncode == 1
    assert "pip install -c constraints.txt '.[torch]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_command_is_registered_once():
    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    assert sorted(names) == sorted(COMMANDS)


def test_results_that_cannot_be_written_end_in_one_line(models):
    """On a full disk; to a reader that has gone they end without a word."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    for words in (["--version"], ["inspect", models["image"]], ["inspect", models["image"], "--json"]):
        command = [sys.executable, "-m", "ncdeploy_cli.main", *words]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr.splitlines()) == (
            1, ["error: the output: cannot be written: No space left on device"],
        )  # fmt: skip
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, "")
