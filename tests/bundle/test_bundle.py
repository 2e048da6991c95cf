"""What goes into a bundle comes out of it, and a machine without PyTorch samples from it."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import ncdeploy
from bundle_files import INFO, PLANS, reseal, write_engine
from ncdeploy import FileError, InputError, ParityError, make_plan, open_bundle, open_engine, sample
from ncdeploy.bundle import make_bundle
from ncdeploy.bundle.check import check_plans
from ncdeploy.formats.bundle import BundledPlan
from tiny_models import IMAGES, write_mixture, write_nan_below

SRC = Path(ncdeploy.__file__).parents[1]


def test_what_goes_in_comes_out(bundle, model):
    assert bundle.info == INFO
    assert bundle.engine.read_bytes() == model.read_bytes()
    assert list(bundle.plans) == [plan.name for plan in PLANS]
    for plan in PLANS:
        stored = bundle.plans[plan.name]
        for field in ("sigmas", "state", "denoised", "noise", "evaluated"):
            np.testing.assert_array_equal(getattr(stored.plan, field), getattr(plan, field))
        g = np.where(plan.evaluated, INFO.error_curve.jacobian(plan.sigmas), 0)
        np.testing.assert_array_equal(stored.jacobian, g)
        assert stored.window == min(16, plan.evaluations)
    assert bundle.plan() is bundle.plans["ddim-20"]
    with pytest.raises(InputError, match="has no plan 'ddim-21'; it has ddim-20, heun-6, ddpm-30, unipc-8"):
        bundle.plan("ddim-21")


def test_every_file_is_listed_with_its_digest(bundle):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    files = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    assert files == {*manifest["files"], "manifest.json", "manifest.sha256"}
    for name, entry in manifest["files"].items():
        data = (bundle.path / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    digest = hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert (bundle.path / "manifest.sha256").read_text() == f"{digest}  manifest.json\n"


def test_the_samples_are_those_of_engine_and_plan(bundle, model):
    stored = bundle.plan("ddpm-30")
    options = {"seeds": range(3), "window": stored.window, "tolerance": stored.tolerance}
    apart = sample(open_engine(model), make_plan("ddpm", 30), **options)
    for engine in (open_engine(bundle), open_engine(bundle.path)):
        np.testing.assert_array_equal(sample(engine, stored.plan, **options).samples, apart.samples)


def test_the_comparison_is_recorded_and_true(bundle):
    record = bundle.parity["plans"]["ddim-20"]
    stored, engine = bundle.plan("ddim-20"), open_engine(bundle)
    one = sample(engine, stored.plan, seeds=range(4))
    many = sample(engine, stored.plan, seeds=range(4), window=stored.window, tolerance=stored.tolerance)
    rms = np.sqrt(np.mean((many.samples - one.samples) ** 2, axis=1))
    assert record["largest_rms"] == pytest.approx(rms.max(), rel=1e-3)
    assert (record["sequential_calls"], record["parallel_calls"]) == (one.depth, many.depth)
    assert many.depth < one.depth


def test_the_python_example_of_its_readme_runs_without_pytorch(bundle):
    code = (bundle.path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    block = f"import sys\nsys.modules['torch'] = None\nsys.path.insert(0, {str(SRC)!r})\n"
    done = subprocess.run([sys.executable, "-c", block + code], cwd=bundle.path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = bundle.parity["plans"]["ddim-20"]["parallel_calls"]
    assert done.stdout == f"{calls} network calls instead of 20\n"


def test_labels_are_in_the_examples_of_a_model_with_classes(tmp_path):
    model = write_mixture(tmp_path / "m.onnx", replace(IMAGES, num_classes=3), np.zeros((3, 1, 8, 8)))
    text = (make_bundle(model, tmp_path / "b", plans=[make_plan("ddim", 5)]).path / "README.md").read_text()
    assert 'seeds=range(4), conditions={"labels": [0, 1, 2, 0]},' in text
    assert 'sampler.sample({0, 1, 2, 3}, {{"labels", std::vector<std::int64_t>{0, 1, 2, 0}}})' in text


def test_a_model_that_does_not_describe_itself(tmp_path):
    silent = write_mixture(tmp_path / "silent.onnx", INFO, np.eye(5), described=False)
    plans = [make_plan("ddim", 5)]
    with pytest.raises(FileError, match="does not say what it is"):
        make_bundle(silent, tmp_path / "b", plans=plans)
    made = make_bundle(silent, tmp_path / "b", plans=plans, info=INFO)
    engine = open_engine(made.path)
    assert engine.info == made.info == INFO
    with pytest.raises(InputError, match="describes itself"):
        open_engine(made.path, info=INFO)


def test_further_graphs_travel(tmp_path, model):
    (tmp_path / "sampler.onnx").write_bytes(model.read_bytes())
    made = make_bundle(model, tmp_path / "b", plans=[PLANS[0]], graphs=[tmp_path / "sampler.onnx"])
    assert made.graphs == {"sampler.onnx": tmp_path / "b" / "sampler.onnx"}
    assert made.graphs["sampler.onnx"].read_bytes() == model.read_bytes()
    for name, said in (("model.onnx", "file of this name"), ("a b.onnx", "expected a name")):
        (tmp_path / name).write_bytes(model.read_bytes())
        with pytest.raises(InputError, match=said):
            make_bundle(model, tmp_path / "other", plans=[PLANS[0]], graphs=[tmp_path / name])
    other = write_mixture(tmp_path / "other.onnx", replace(INFO, weights_digest="0" * 64), np.eye(5))
    with pytest.raises(InputError, match="of another model"):
        make_bundle(model, tmp_path / "other", plans=[PLANS[0]], graphs=[other])
    assert not (tmp_path / "other").exists()


def with_values_outside(model: Path, target: Path) -> Path:
    """The same graph with its weights in weights.bin beside it."""
    onnx.save(
        onnx.load(model), target, save_as_external_data=True, location="weights.bin", size_threshold=64,
        convert_attribute=True,
    )  # fmt: skip
    return target


def test_values_outside_a_graph_travel_and_are_checked(tmp_path, model, bundle):
    outside = with_values_outside(model, tmp_path / "m.onnx")
    made = make_bundle(outside, tmp_path / "b", plans=[PLANS[0]])
    weights = made.path / "weights.bin"
    assert weights.read_bytes() == (tmp_path / "weights.bin").read_bytes() != b""
    got, wanted = (sample(open_engine(b, threads=1), PLANS[0], seeds=[1]).samples for b in (made, bundle))
    np.testing.assert_array_equal(got, wanted)

    whole = weights.read_bytes()
    weights.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(FileError, match="SHA-256 differs"):
        open_bundle(made.path)
    manifest = json.loads((made.path / "manifest.json").read_text())
    del manifest["files"]["weights.bin"]
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    reseal(made.path)
    with pytest.raises(FileError, match=r"model\.onnx: has values in 'weights\.bin', which the manifest lacks"):
        open_bundle(made.path)

    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FileError, match=r"weights\.bin: there is no such file"):
        make_bundle(outside, tmp_path / "c", plans=[PLANS[0]])


@pytest.mark.parametrize("location", ["../weights.bin", "/weights.bin", "a b.bin", "README.md", "manifest.json"])
def test_values_that_no_bundle_can_hold(tmp_path, model, location):
    graph = onnx.load(with_values_outside(model, tmp_path / "m.onnx"), load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises((InputError, FileError), match=r"has values in|not in its folder|no such file"):
        make_bundle(tmp_path / "m.onnx", tmp_path / "b", plans=[PLANS[0]])


def test_a_tensorrt_engine_travels_with_the_file_beside_it(tmp_path):
    engine = write_engine(tmp_path / "e.plan")
    made = make_bundle(engine, tmp_path / "b", plans=[PLANS[0]], verify=False)
    assert (made.engine.name, made.info, made.parity) == ("model.plan", INFO, None)
    assert (made.path / "model.plan.json").read_text() == (tmp_path / "e.plan.json").read_text()
    text = (made.path / "README.md").read_text()
    assert 'open_engine(bundle, device="cuda")' in text
    assert "open_tensorrt(bundle)" in text

    path = made.path / "model.plan.json"
    path.write_text(path.read_text().replace('"sigma_max": 160.0', '"sigma_max": 100.0'))
    reseal(made.path, "model.plan.json")
    with pytest.raises(FileError, match="describes another model"):
        open_bundle(made.path)
    (tmp_path / "e.plan.json").unlink()
    with pytest.raises(FileError, match=r"e\.plan\.json is missing"):
        make_bundle(engine, tmp_path / "c", plans=[PLANS[0]], verify=False)


def test_a_failure_leaves_what_was_there(tmp_path, model, bundle):
    nan = write_nan_below(tmp_path / "nan.onnx", replace(IMAGES, error_curve=None), 1.0)
    output = make_bundle(model, tmp_path / "b", plans=[PLANS[0]], verify=False).path
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    with pytest.raises(ncdeploy.NumericalError):
        make_bundle(nan, output, plans=[make_plan("ddim", 5)], force=True)
    with pytest.raises(FileError, match="exists"):
        make_bundle(model, output, plans=[PLANS[0]])
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "nan.onnx"]
    make_bundle(model, output, plans=[PLANS[1]], verify=False, force=True)
    assert list(open_bundle(output).plans) == ["heun-6"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "nan.onnx"]


def test_only_a_bundle_is_ever_replaced(tmp_path, model):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("x")
    stages = []
    for output, said in ((home, "other things in it"), (home / "thesis.tex", "is a file"), (home / "no/b", "mkdir -p")):
        with pytest.raises(FileError, match=said):
            make_bundle(model, output, plans=[PLANS[0]], force=True, on_stage=stages.append)
    assert not stages  # found before the work
    assert (home / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"plans": []}, "plans: got none"),
        ({"plans": [PLANS[0], PLANS[0]]}, "given twice"),
        ({"window": 0}, "window: got 0"),
        ({"tolerance": -1.0}, "tolerance: got -1"),
        ({"tolerance": float("nan")}, "tolerance: got nan"),
        ({"verify": False, "reference": "model.pt"}, "reference: nothing is compared"),
        ({"verify": False, "threads": 1}, "threads: nothing is compared"),
        ({"allow_module": True}, "trust: is about the code of a reference"),
    ],
)
def test_wrong_values(model, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        make_bundle(model, tmp_path / "b", **{"plans": [PLANS[0]], **options})
    assert not list(tmp_path.iterdir())


def test_a_plan_name_that_is_no_file_name(model, tmp_path):
    plan = PLANS[0]
    for name in ("../up", "a/b", ".hidden", "a b", "a\\b"):
        other = ncdeploy.Plan(
            name=name, sigmas=plan.sigmas, state=plan.state, denoised=plan.denoised, noise=plan.noise,
            evaluated=plan.evaluated,
        )  # fmt: skip
        with pytest.raises(InputError, match="names a file"):
            make_bundle(model, tmp_path / "b", plans=[other])


def test_a_loose_tolerance_is_refused(model):
    plan = make_plan("ddpm", 200)
    stored = BundledPlan(plan=plan, jacobian=None, window=200, tolerance=100.0)
    with pytest.raises(ParityError, match=r"ddpm-200: parallel samples differ .* smaller --tolerance"):
        check_plans(open_engine(model), {"ddpm-200": stored})


def test_a_reference_that_disagrees_is_refused(model, tmp_path):
    other = write_mixture(tmp_path / "other.onnx", INFO, 1.01 * np.eye(5))
    with pytest.raises(ParityError, match="the engine disagrees"):
        make_bundle(model, tmp_path / "b", plans=[PLANS[0]], reference=other)
    made = make_bundle(model, tmp_path / "b", plans=[PLANS[0]], reference=model)
    assert made.parity["reference"]["ok"]


def test_the_manifest_and_the_engine_must_say_the_same(model, tmp_path):
    """Two models of one shape, swapped with correct digests."""
    made = make_bundle(model, tmp_path / "b", plans=[PLANS[0]], verify=False)
    graph = onnx.load(model)
    onnx.helper.set_model_props(graph, {"ncdeploy": replace(INFO, sigma_data=0.5).to_json()})
    onnx.save(graph, made.engine)
    reseal(made.path, "model.onnx")
    with pytest.raises(FileError, match="describes another model"):
        open_bundle(made.path)
