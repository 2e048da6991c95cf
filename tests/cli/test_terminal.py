"""What reaches a terminal: names as text, long runs with a line now and then, SIGTERM as Ctrl-C."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ncdeploy_cli import console, terminal
from ncdeploy_cli.main import _RENAMED, app

ROOT = Path(__file__).parents[2]
HOSTILE = "a[/b][link=http:x]\x1b[31m\x1b]0;t\x07‮<script>%s%"
# Everything that a command takes as a name, by command. One that is not listed fails below.
NAMED = {
    "train": [["--data", HOSTILE, "-o", "m.pt"], ["--data", "digits", "-o", f"{HOSTILE}/m.pt"], ["--resume", HOSTILE]],
    "import": [[HOSTILE, "-o", "m.pt"], ["x", "-o", f"{HOSTILE}.pt", "--format", HOSTILE]],
    "export": [[HOSTILE], ["m.pt", "-o", f"{HOSTILE}.pt"], ["m.pt", "--graph", HOSTILE]],
    "build": [[HOSTILE], ["m.onnx", "--device", HOSTILE]],
    "verify": [[HOSTILE, "m.onnx"]],
    "check": [[HOSTILE], ["m.onnx", "--data", HOSTILE]],
    "bundle": [[HOSTILE, "-o", "b"], ["m.onnx", "-o", f"{HOSTILE}.onnx"]],
    "triton": [[HOSTILE, "-o", "r"], ["b", "-o", "r", "--prefix", HOSTILE]],
    "sample": [[HOSTILE], ["m.onnx", "-o", f"{HOSTILE}.jpg"]],
    "serve": [["--port", 0, HOSTILE], ["m.onnx", "--host", HOSTILE]],
    "denoise": [[HOSTILE, "a.npy", "-o", "b.npy"], ["m.onnx", "a.npy", "-o", f"{HOSTILE}.jpg"]],
    "tune": [[HOSTILE], ["m.onnx", "--device", HOSTILE]],
    "demo": [["-o", f"{HOSTILE}.html"], ["--data", HOSTILE]],
    "evaluate": [[HOSTILE, "--data", "digits"], ["m.onnx", "--data", HOSTILE]],
    "bench": [[HOSTILE], ["m.onnx", "--steps", HOSTILE], ["m.onnx", "--budget", HOSTILE]],
    "inspect": [[HOSTILE]],
    "doctor": [],
}


@pytest.mark.parametrize("name", sorted(c.name for c in app.registered_commands))
def test_a_hostile_name_is_shown_as_text(run, name):
    for words in NAMED[name]:
        done = run(name, *words)
        assert done.exit_code == 1, done.output
        assert not any(c in done.output for c in ("\x1b", "\x07", "‮")), words
        assert len(done.stderr.splitlines()) == 1
        if HOSTILE in words or words[-1].startswith(HOSTILE):
            assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("command", ["sample", "inspect", "tune", "bench", "verify", "check"])
def test_a_model_of_a_hostile_name_is_used_and_its_name_shown(run, models, command):
    file = Path(HOSTILE.replace("/", "") + ".onnx")
    file.write_bytes(models["image"].read_bytes())
    words = {
        "sample": ["-n", 2, "-o", f"{file}.png"],
        "tune": ["--rows", 2, "--budget", 0.1],
        "bench": ["--solver", "euler", "--steps", 2, "--window", "none", "--samples", 2, "--repetitions", 1],
        "verify": [file],
    }
    done = run(command, file, *words.get(command, []))
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "‮" not in done.output
    assert "a[b][link=http:x]\\x1b[31m" in done.stdout
    assert "\\u202e<script>%s%" in done.stdout


def test_text_is_shown_on_a_terminal_and_in_ascii(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = terminal.Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=200)
    plain.print("a\x1b[31mb\rc [bold]d[/bold] :smile: é")
    plain.print(HOSTILE, style="bold")
    written = plain.file.getvalue()
    assert "a\\x1b[31mb\\rc [bold]d[/bold] :smile: é" in written
    assert written.count("\x1b[") == 2, "rich's own, around the bold line"
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal.Console(file=narrow).print("é \udcff")
    narrow.flush()
    assert narrow.buffer.getvalue() == b"\\xe9 \\udcff\n"


def test_a_message_of_any_length_is_one_sane_line(capsys):
    console.error("start " + "x\n" * 50_000 + "remedy")
    line = capsys.readouterr().err
    assert len(line) < 700
    assert line.startswith("error: start x x")
    assert line.endswith("x remedy\n")
    assert line.count("\n") == 1


def test_without_a_terminal_long_runs_say_now_and_then_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "PERIOD", 0.05)
    with console.progress("sampling", 40, "nodes") as bar:
        bar.update(10, note="3 calls")
        time.sleep(0.3)
        bar.update(40, note="9 calls")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("sampling: 25%, 10/40 nodes, 3 calls, ")
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("sampling: 100%, 40/40 nodes, 9 calls, ")
    monkeypatch.setattr(terminal, "duration", lambda seconds: f"{seconds:.9f}")
    with console.progress("training", 40, "steps", done=20) as bar:
        bar.update(30)
        time.sleep(0.2)
    line = capsys.readouterr().err.splitlines()[0]
    passed, left = (float(part.split()[0]) for part in line.split(", ")[2:])
    assert left == pytest.approx(passed), "what a resumed run did before took none of this time"
    monkeypatch.undo()
    with console.progress("sampling", 40, "nodes") as bar:
        bar.update(40)
    assert capsys.readouterr().err == "", "a short run says nothing"
    with pytest.raises(ValueError, match="lost"), console.progress("training", 4, "steps", keep=True):
        raise ValueError("lost")
    assert capsys.readouterr().err == "", "what failed is not shown as done"


def test_on_a_terminal_bars_show_per_cent_and_the_time_left():
    screen = terminal.Console(file=io.StringIO(), force_terminal=True, width=80)
    with terminal.Running(screen, "sampling [/x]", 40, "nodes", done=0, keep=True) as bar:
        bar.update(30, note="9 calls")
    assert "75%" in screen.file.getvalue()
    assert "sampling [/x]" in screen.file.getvalue()
    assert "30/40 nodes, 9 calls" in screen.file.getvalue()


@pytest.mark.parametrize(("command", "old"), [(c, old) for c, names in _RENAMED.items() for old in names])
def test_old_names_of_options_work_and_say_so(run, command, old):
    new = _RENAMED[command][old]
    help_text = run(command, "--help").stdout
    assert new in help_text
    assert f"{old} " not in help_text
    for words in ([old, "many"], [f"{old}=many"]):
        done = run(command, *words)
        assert done.stderr.startswith(f"warning: {old} is called {new} now")
        assert "No such option" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch")
def test_sigterm_ends_as_ctrl_c_does(models, tmp_path):
    """In the middle of a run: one line, exit code 130, nothing left behind."""
    code = (
        "import os, signal, sys; sys.argv[0] = 'ncdeploy'\n"
        "from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend\n"
        "OnnxRuntimeBackend.__call__ = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "from ncdeploy_cli.main import main; main()"
    )
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]), "XDG_CACHE_HOME": "cache"}
    words = [sys.executable, "-c", code, "sample", str(models["image"]), "-n", "2"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=there, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: cancelled\n")
    assert [p for p in tmp_path.iterdir() if p.name != "cache"] == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "only the command's own process"


def test_every_command_prints_json():
    lacking = [c.name for c in app.registered_commands if not {"as_json"} & set(c.callback.__annotations__)]
    assert lacking == []
