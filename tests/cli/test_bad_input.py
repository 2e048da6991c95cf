"""Bad input to `ncdeploy sample`: one clear line on stderr, exit code 1 (2 for wrong usage), nothing left behind."""

from pathlib import Path

import pytest


@pytest.mark.parametrize("steps", ["0", "8,0", "8,-1", "8,x", "8,"])
@pytest.mark.parametrize("command", [["bench"], ["bundle", "-o", "out"]], ids=["bench", "bundle"])
def test_a_list_of_steps_has_numbers_of_at_least_one(run, models, command, steps):
    done = run(*command, models["image"], "--steps", steps)
    assert done.exit_code == 1
    assert f'--steps {steps}: expected numbers of at least 1, like "8,32"' in done.stderr


def _damaged(models, kind: str, tmp_path: Path) -> Path:
    file = tmp_path / f"{kind}.onnx"
    content = models["image"].read_bytes()
    file.write_bytes({"cut": content[:-200], "empty": b"", "text": b"not a model", "pickle": b"\x80\x04\x95K."}[kind])
    return file


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("image", ["--steps", "0"], "steps"),
        ("image", ["--solver", "dpmp_2m"], "did you mean 'dpmpp_2m'"),
        ("image", ["--schedule", "karas"], "did you mean 'karras'"),
        ("image", ["--parallel", "--window", "0"], "window"),
        ("image", ["--parallel", "--tolerance", "-1"], "tolerance"),
        ("image", ["--tolerance", "0.1"], "--parallel"),
        ("image", ["--window", "4", "--sequential"], "sequential sampling has none; leave it or --sequential out"),
        ("image", ["--eta", "0.5"], "eta"),
        ("image", ["--clip", "0"], "clip is 0.0, expected a positive number"),
        ("image", ["--raw-noise"], "raw_noise"),
        ("image", ["--rows", "0"], "--rows"),
        ("image", ["--window", "12", "--rows", "3"], "a window of 12 needs"),
        ("image", ["--window", "wide"], 'expected a number of nodes, or "auto"'),
        ("image", ["--sigma-min", "-1"], "sigma_min"),
        ("image", ["--sigma-min", "9", "--sigma-max", "3"], "sigma"),
        ("image", ["--labels", "3"], "unconditional"),
        ("classes", ["--labels", "10"], "0 to 9"),
        ("classes", ["--labels", "three"], "3,3,7"),
        ("image", ["--device", "tpu"], "cuda:N"),
        ("image", ["--threads", "0"], "threads"),
        ("image", ["--sigma-data", "0.5"], "is missing"),
        ("image", ["--sigma-data", "0.5", "--sigma-min", "0.1", "--sigma-max", "9"], "describes itself"),
        ("silent", ["--sigma-data", "0.5", "--sigma-min", "0.1"], "--sigma-max is missing"),
        ("silent", ["--shape", "a,b"], "3,64,64"),
        ("image", ["-o", "x.jpg"], "expected .png"),
        ("vectors", ["-o", "x.png"], "write them to .npz"),
        ("points", ["-o", "folder/"], ".npz or .npy"),
        ("image", ["-o", "no/such/x.png"], "does not exist"),
        ("nan", [], "sigma = "),
        ("nan", ["--parallel"], "node"),
    ],
)
def test_one_line_and_nothing_left(run, models, tmp_path, model, options, said):
    done = run("sample", "-e", models[model], "-n", 2, *options)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    line = done.stderr.rstrip("\n")
    assert line.startswith("error: ")
    assert "\n" not in line
    assert said in line
    assert [p for p in tmp_path.iterdir() if p.name != "cache"] == []


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "pickle"])
def test_a_file_that_is_no_model_is_refused(run, models, tmp_path, kind):
    file = _damaged(models, kind, tmp_path)
    done = run("sample", "-e", file, "-n", 2)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert file.name in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_an_earlier_result_survives_a_failure(run, models, tmp_path):
    (tmp_path / "samples.png").write_bytes(b"mine")
    assert run("sample", "-e", models["nan"], "-n", 2).exit_code == 1
    assert (tmp_path / "samples.png").read_bytes() == b"mine"


@pytest.mark.parametrize("options", [["-n", "0"], ["-n", "many"], ["--seed", "-1"], ["--no-such-option"]])
def test_wrong_usage_exits_with_two(run, models, options):
    done = run("sample", "-e", models["image"], *options)
    assert done.exit_code == 2
    assert options[0] in done.stderr
