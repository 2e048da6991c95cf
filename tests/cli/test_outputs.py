"""One rule for outputs, in every command that has one: nothing is replaced without --force, and suffixes are right."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ncdeploy_cli.main import app

# What to type before -o, on files that are not there: the output is looked at first. A command that gets an output
# and is not listed here fails below.
WRITERS = {
    "train": ("out.pt", ["--data", "digits"]),
    "import": ("out.pt", ["missing/"]),
    "export": ("out.onnx", ["missing.pt"]),
    "build": ("out.plan", ["missing.onnx"]),
    "bundle": ("out", ["missing.onnx"]),
    "sample": ("out.png", ["missing.onnx"]),
    "denoise": ("out.npy", ["missing.onnx", "missing.npy"]),
    "demo": ("out", []),
    "evaluate": ("out.html", ["missing.onnx", "--data", "digits"]),
    "bench": ("out.svg", ["missing.onnx"]),
}
IN_A_REPOSITORY = ("triton",)  # writes beside what is there: tested below


def _options(command) -> dict:
    return command.callback.__annotations__


@pytest.mark.parametrize("name", sorted(c.name for c in app.registered_commands if "output" in _options(c)))
def test_what_is_there_is_replaced_with_force_alone(run, name):
    if name in IN_A_REPOSITORY:
        return
    output, words = WRITERS[name]
    target = Path(output)
    mine = target if target.suffix else target / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    done = run(name, *words, "-o", output)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: {output}: exists; choose another output, or replace it with --force\n"
    assert mine.read_text() == "mine"
    (command,) = (c for c in app.registered_commands if c.name == name)
    assert "force" in _options(command)


def test_triton_replaces_models_of_a_repository_with_force_alone(run, models):
    assert run("bundle", models["image"], "-o", "b", "--no-verify").exit_code == 0
    Path("repository/other").mkdir(parents=True)
    assert run("triton", "b", "-o", "repository").exit_code == 0
    done = run("triton", "b", "-o", "repository")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "denoiser: exists; choose another output, or replace it with --force" in done.stderr
    assert run("triton", "b", "-o", "repository", "--force", "--json").exit_code == 0
    assert Path("repository/other").is_dir()


def test_force_replaces(run, models):
    Path("samples.npz").write_text("old")
    assert run("sample", models["vectors"], "-n", 2).exit_code == 1, "a default output is protected as well"
    assert run("sample", models["vectors"], "-n", 2, "--force").exit_code == 0
    assert np.load("samples.npz")["samples"].shape == (2, 5)


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["train", "--data", "digits", "-o", "m.onnx"], "m.pt"),
        (["import", "missing/", "-o", "m.onnx"], "m.pt"),
        (["export", "m.pt", "-o", "foo.pt"], "foo.onnx"),
        (["build", "m.onnx", "-o", "b.onnx"], "b.plan"),
        (["bundle", "m.onnx", "-o", "b.onnx"], "such as b\n"),
        (["demo", "-o", "d.html"], "such as d\n"),
        (["evaluate", "m.onnx", "--data", "digits", "-o", "e.pdf"], "e.html"),
        (["bench", "m.onnx", "-o", "c.pdf"], "c.svg"),
        (["sample", "m.onnx", "-o", "s.jpg"], ".png"),
    ],
)
def test_a_wrong_suffix_is_refused_and_the_right_one_named(run, tmp_path, words, right):
    done = run(*words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert right in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["export", "m.onnx", "-o", "m.onnx"], ["import", "m.pt", "-o", "./m.pt"], ["bundle", "m", "-o", "m"]]
)
def test_the_source_is_no_output_even_with_force(run, words):
    Path(words[1]).write_text("mine")
    done = run(*words, "--force")
    assert done.exit_code == 1
    assert "is what is read here; choose another name" in done.stderr
    assert Path(words[1]).read_text() == "mine"


def test_a_folder_of_samples_holds_those_of_one_run_and_nothing_else(run, models):
    assert run("sample", models["image"], "-n", 12, "-o", "pictures").exit_code == 0
    assert "pictures: exists" in run("sample", models["image"], "-n", 3, "-o", "pictures").stderr
    assert run("sample", models["image"], "-n", 3, "-o", "pictures", "--force").exit_code == 0
    assert sorted(file.name for file in Path("pictures").iterdir()) == ["0.png", "1.png", "2.png"]
    Path("pictures/mine.txt").write_text("mine")
    done = run("sample", models["image"], "-n", 2, "-o", "pictures", "--force")
    assert done.exit_code == 1
    assert "holds mine.txt, which is no numbered picture" in done.stderr
    assert len(list(Path("pictures").iterdir())) == 4


def test_a_table_of_samples_is_read_where_training_reads_it(run, models):
    from ncdeploy.training.arrays import read_csv

    assert run("sample", models["vectors"], "-n", 5, "-o", "s.csv").exit_code == 0
    assert run("sample", models["vectors"], "-n", 5, "-o", "s.npy").exit_code == 0
    assert np.array_equal(read_csv(Path("s.csv")).astype(np.float32), np.load("s.npy"))
    refused = run("sample", models["image"], "-n", 2, "-o", "t.csv")
    assert refused.exit_code == 1
    assert "a row of a table is a vector" in refused.stderr


@pytest.mark.parametrize(
    ("source", "named"), [("nets:make", "make.pt"), ("m.pt", "m.safetensors"), ("far/m.pt", "m.pt"), ("f.1/", "f.1.pt")]
)
def test_the_default_name_of_an_import_is_the_sources(tmp_path, monkeypatch, source, named):
    from ncdeploy_cli.import_ import _named_after

    monkeypatch.chdir(tmp_path)
    Path("far").mkdir()
    Path("f.1").mkdir()
    for file in ("m.pt", "far/m.pt"):
        Path(file).touch()
    assert _named_after(source) == Path(named)


def test_inspect_says_of_samples_what_people_want_to_know(run, models):
    assert run("sample", models["vectors"], "-n", 3, "-o", "s.npz").exit_code == 0
    done = run("inspect", "s.npz")
    samples = np.load("s.npz")["samples"]
    assert f"samples 3 x 5 float32, from {samples.min():.4g} to {samples.max():.4g}" in " ".join(done.stdout.split())
    assert "{" not in done.stdout


HOLD = """
import sys, time
from ncdeploy.files import held
with held(sys.argv[1], folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"train"}))
def test_an_output_that_another_run_will_write_is_refused(run, name, tmp_path):
    output, words = WRITERS[name]
    kind = "file" if Path(output).suffix else "folder"
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, output, kind],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            done = run(name, *words, "-o", output, "--force")
        finally:
            process.kill()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is being written by another run; wait for its end, or choose another output" in done.stderr
    if name != "demo":  # which would run
        assert "another run" not in run(name, *words, "-o", output).stderr, "a killed run holds nothing"
        assert not any(p.name.startswith(".") for p in tmp_path.iterdir())


def test_of_two_trainings_of_one_model_one_is_told(run):
    path = os.pathsep.join(sys.path)
    words = ["train", "--data", "moons", "--network", "small", "--batch", "8", "--save-every", "1", "-o", "m.pt"]
    with subprocess.Popen(
        [sys.executable, "-m", "ncdeploy_cli.main", *words, "--updates", "100000"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            while not Path("m.pt").exists():
                assert process.poll() is None
                time.sleep(0.1)
            for other in (["train", "--resume", "m.pt"], [*words, "--force", "--updates", "1"]):
                done = run(*other)
                assert done.exit_code == 1
                assert "m.pt: is being written by another run" in done.stderr
        finally:
            process.kill()


def test_pictures_are_written_before_old_ones_go(run, models, monkeypatch, tmp_path):
    from PIL import Image

    assert run("sample", models["image"], "-n", 3, "-o", "pictures").exit_code == 0
    old = {file.name: file.read_bytes() for file in Path("pictures").iterdir()}
    write = Image.Image.save

    def full(picture, path, **options):
        if path.name == "2.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(picture, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    for output in ("pictures", "new"):
        done = run("sample", models["image"], "-n", 5, "--seed", 7, "-o", output, "--force")
        assert done.exit_code == 1
        assert done.stderr == f"error: {output}: cannot be written: No space left on device\n"
    assert {file.name: file.read_bytes() for file in Path("pictures").iterdir()} == old
    assert {p.name for p in tmp_path.iterdir()} <= {"pictures", "cache"}
