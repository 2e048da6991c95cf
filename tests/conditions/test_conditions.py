"""A sample depends on its seed and its own conditions: not on the batch, the window, or the order of samples."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conditioned import CONDITIONS, OBS, TASK, PerRow, PerSample, make
from ncdeploy import (
    Condition,
    FileError,
    InputError,
    ModelInfo,
    SampleOptions,
    make_plan,
    open_bundle,
    open_engine,
    sample,
)
from ncdeploy.backends.onnxruntime import OnnxRuntimeBackend
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.bundle import make_bundle
from ncdeploy.export import export_onnx
from ncdeploy.guidance import Guided
from ncdeploy.importers.module import wrap_module
from ncdeploy.parity import compare
from ncdeploy.parity.inputs import draw_samples

N = 16
GIVEN = draw_samples(make().info, N, np.random.default_rng(3))
PLANS = [make_plan("ddim", 12, schedule="karras"), make_plan("ddpm", 12)]


@pytest.fixture(scope="module", params=[PerRow, PerSample])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("conditions") / "model.onnx"
    export = export_onnx(make(request.param), path, threads=1)
    assert export.parity is not None
    assert export.parity.ok
    return path


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    path = tmp_path_factory.mktemp("guided") / "model.onnx"
    export_onnx(make(), path, guidance=True, threads=1)
    return open_engine(path, threads=1)


@pytest.fixture(scope="module", params=["torch", "onnx"])
def engine(request, exported):
    return TorchBackend(make(), threads=1) if request.param == "torch" else open_engine(exported, threads=1)


def one_by_one(engine, plan, **options) -> np.ndarray:
    runs = [
        sample(engine, plan, seeds=[i], conditions={k: v[i : i + 1] for k, v in GIVEN.items()}, **options)
        for i in range(N)
    ]
    return np.concatenate([run.samples for run in runs])


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.name)
def test_a_batch_is_its_samples_at_every_window(engine, plan):
    alone = one_by_one(engine, plan)
    assert np.abs(alone - alone[0]).max() > 0.1
    for window in (None, 1, 3, plan.evaluations):
        for rows in (None, 5 * plan.evaluations):
            run = sample(
                engine, plan, seeds=range(N), conditions=GIVEN, window=window, tolerance=0,
                options=SampleOptions(max_rows=rows),
            )  # fmt: skip
            np.testing.assert_allclose(run.samples, alone, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4, "auto"])
def test_permuting_conditions_permutes_samples(engine, window):
    order = np.random.default_rng(5).permutation(N)
    given = {name: values[order] for name, values in GIVEN.items()}
    base = sample(engine, PLANS[0], seeds=range(N), conditions=GIVEN, window=window, tolerance=1e-6)
    moved = sample(engine, PLANS[0], seeds=order, conditions=given, window=window, tolerance=1e-6)
    np.testing.assert_allclose(moved.samples, base.samples[order], atol=1e-5)
    wrong = sample(engine, PLANS[0], seeds=order, conditions=GIVEN, window=window, tolerance=1e-6)
    assert np.abs(wrong.samples - base.samples[order]).max() > 0.05


def test_conditions_are_given_once_a_sample_and_only_those_in_the_call():
    seen = []
    engine = TorchBackend(make(), threads=1)

    def denoise(x: Any, sigma: Any, conditions: Any, sample: Any) -> Any:
        seen.append({len(v) for v in conditions.values()})
        assert sample.max() + 1 == max(seen[-1])
        return engine(x, sigma, conditions=conditions, sample=sample)

    options = SampleOptions(shape=(6,), max_rows=3 * 4)
    sample(denoise, PLANS[0], seeds=range(N), conditions=GIVEN, window=4, options=options)
    assert all(len(sizes) == 1 and max(sizes) <= 3 for sizes in seen)
    seen.clear()  # and without an info, "auto" is timed with conditions of the run
    sample(
        denoise, PLANS[0], seeds=[0], conditions={k: v[:1] for k, v in GIVEN.items()}, window="auto", options=options
    )
    assert {1} in seen


def test_both_networks_and_both_runtimes_agree(exported):
    report = compare(TorchBackend(make(PerSample), threads=1), OnnxRuntimeBackend(exported, threads=1))
    assert report.ok, report.summary


def test_parity_sees_conditions_that_went_to_another_sample(exported):
    class Swapped(OnnxRuntimeBackend):
        def __call__(self, x, sigma, *, conditions, sample):
            moved = {name: np.roll(values, 1, axis=0) for name, values in conditions.items()}
            return super().__call__(x, sigma, conditions=moved, sample=sample)

    assert not compare(TorchBackend(make(), threads=1), Swapped(exported, threads=1)).ok


def test_the_graph_takes_what_the_info_says_and_repeats_nothing(exported):
    info = open_engine(exported).info
    assert info == replace(make().info, weights_digest=info.weights_digest, versions=info.versions, data=info.data)
    assert [port.name for port in info.inputs] == ["x", "sigma", "obs", "task", "tokens", "sample"]
    assert [port.shape[0] for port in info.inputs] == ["batch", "batch", "samples", "samples", "samples", "batch"]


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_guidance_leads_away_from_the_null_values(guided, where):
    """Weight 1 is the conditional model, 0 the one with every null value; conditions without one stay as they are."""
    engine = guided if where == "inside" else TorchBackend(make(), threads=1)
    plain = TorchBackend(make(), threads=1)
    nulled = GIVEN | {"obs": np.zeros_like(GIVEN["obs"]), "task": np.full_like(GIVEN["task"], 3)}

    def run(denoise: Any, given: Any, weight: float | None) -> np.ndarray:
        options = SampleOptions(guidance=weight)
        return sample(denoise, PLANS[0], seeds=range(N), conditions=given, window=4, options=options).samples

    np.testing.assert_allclose(run(engine, GIVEN, 1.0), run(plain, GIVEN, None), atol=2e-5)
    np.testing.assert_allclose(run(engine, GIVEN, 0.0), run(plain, nulled, None), atol=2e-5)
    assert np.abs(run(engine, GIVEN, 3.0) - run(plain, GIVEN, None)).max() > 0.01


def test_a_weight_for_each_row(guided):
    rng = np.random.default_rng(0)
    x, sigma = rng.standard_normal((N, 6)).astype(np.float32), np.full(N, 0.7, np.float32)
    rows = {"conditions": GIVEN, "sample": np.arange(N)}
    weights = np.linspace(0, 3, N).astype(np.float32)
    outside = Guided(TorchBackend(make(), threads=1))
    inside = guided(x, sigma, guidance=weights, **rows)
    np.testing.assert_allclose(outside(x, sigma, guidance=weights, **rows), inside, atol=1e-5)
    for i in (0, 7):
        same = outside(x, sigma, guidance=np.full_like(weights, weights[i]), **rows)
        np.testing.assert_allclose(same[i], inside[i], atol=1e-5)


def test_guidance_needs_a_null_value():
    with pytest.raises(InputError, match="none of this model's conditions has a null value"):
        Guided(TorchBackend(WITHOUT_NULL()))
    info = replace(make().info, conditions=(Condition(name="a", dtype="float32", shape=()),))
    with pytest.raises(InputError, match="or a condition with a null value"):
        replace(info, guidance=True)


def WITHOUT_NULL():  # noqa: N802
    model = make()
    model.info = replace(model.info, conditions=tuple(replace(c, null=None) for c in CONDITIONS))
    return model


BAD: dict[str, tuple[Any, str]] = {
    "missing": ({k: v for k, v in GIVEN.items() if k != "task"}, "task is missing.*obs float32"),
    "none at all": (None, "obs is missing"),
    "unknown": (GIVEN | {"depth": GIVEN["obs"]}, "got 'depth'"),
    "another count": (GIVEN | {"task": GIVEN["task"][:3]}, r"task: got \(3,\); expected \(16,\)"),
    "another shape": (GIVEN | {"obs": GIVEN["obs"][:, :1]}, "obs: got"),
    "NaN": (GIVEN | {"obs": GIVEN["obs"] * np.nan}, "obs: holds NaN"),
    "infinity": (GIVEN | {"obs": GIVEN["obs"] + np.inf}, "obs: holds NaN or infinity"),
    "too large": (GIVEN | {"obs": GIVEN["obs"] * np.float64(1e300)}, "obs: holds .* too large for float32"),
    "text": (GIVEN | {"obs": "obs.npy"}, "obs: got <U7"),
    "objects": (GIVEN | {"obs": [object()] * N}, "obs: got object"),
    "ragged": (GIVEN | {"obs": [[1.0], [1.0, 2.0]]}, "obs: is no array"),
    "real numbers for integers": (GIVEN | {"task": GIVEN["task"] + 0.5}, "task: got float64"),
    "complex": (GIVEN | {"obs": GIVEN["obs"] * 1j}, "obs: got complex"),
    "a list": ([GIVEN["obs"]], "conditions: got list"),
    "classes": (GIVEN | {"labels": [0] * N}, "labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_conditions_that_do_not_fit_are_one_line(name):
    given, said = BAD[name]
    with pytest.raises(InputError, match=said) as e:
        sample(TorchBackend(make(), threads=1), PLANS[0], seeds=range(N), conditions=given)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample": None}, "conditions"), ({"conditions": None}, "conditions: got none"),
        ({"sample": np.full(2, N)}, "0 .. 15"), ({"sample": np.zeros(3, np.int64)}, "sample: got"),
        ({"sample": np.zeros(2)}, "sample: got float64"),
        ({"conditions": GIVEN | {"obs": GIVEN["obs"][:2]}}, "obs: got|task: got"),
        ({"conditions": GIVEN | {"obs": GIVEN["obs"].astype(float)}}, "obs: got float64"),
    ],
)  # fmt: skip
def test_a_call_is_checked(engine, change, said):
    call = {"conditions": GIVEN, "sample": np.zeros(2, np.int64)} | change
    with pytest.raises(InputError, match=said):
        engine(np.zeros((2, 6), np.float32), np.ones(2, np.float32), **call)


def test_a_record_that_conditions_are_required_of():
    info = make().info
    record = json.loads(info.to_json())
    assert record["requires"] == ["conditions"]
    assert record["conditions"][0] == {"name": "obs", "dtype": "float32", "shape": [2, 3], "null": 0.0}
    assert ModelInfo.from_json(info.to_json()) == info
    assert "conditions" not in json.loads(replace(info, conditions=()).to_json())
    long = replace(OBS, null=tuple(map(float, range(6))))
    assert ModelInfo.from_json(replace(info, conditions=(long,)).to_json()).conditions == (long,)
    np.testing.assert_array_equal(long.none(), np.arange(6.0, dtype=np.float32).reshape(2, 3))
    wrongs = {"name": ["x", "a b", ""], "dtype": ["float16", None], "shape": [[0], 3], "null": [[1.0], "0"]}
    for change in ({name: value} for name, values in wrongs.items() for value in values):
        wrong = json.dumps(record | {"conditions": [record["conditions"][0] | change]})
        with pytest.raises(FileError, match="condition"):
            ModelInfo.from_json(wrong)
    with pytest.raises(InputError, match="two have the same name"):
        replace(info, conditions=(OBS, OBS))
    with pytest.raises(InputError, match="no integer"):
        replace(TASK, null=0.5)


def test_a_bundle_with_conditions(exported, tmp_path):
    make_bundle(exported, tmp_path / "b", plans=PLANS[:1], window=4)
    bundle = open_bundle(tmp_path / "b")
    assert bundle.info.conditions == CONDITIONS
    assert "--condition obs=obs.npy" in (tmp_path / "b" / "README.md").read_text()
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["model"]["requires"] == ["conditions"]
    assert bundle.parity is not None
    run = sample(open_engine(bundle, threads=1), PLANS[0], seeds=range(N), conditions=GIVEN, window=3)
    assert run.samples.shape == (N, 6)


def test_what_does_not_take_conditions_says_so(exported, tmp_path):
    with pytest.raises(InputError, match=r"differ in conditions"):
        compare(TorchBackend(make()), TorchBackend(WITHOUT_NULL()))
    with pytest.raises(InputError, match=r"module\(x, noise, wrong=\.\.\.\) .*failed"):
        wrap_module(PerRow(), shape=(6,), predicts="F", conditions=[Condition(name="wrong", dtype="float32", shape=())])


def test_a_file_that_takes_other_conditions_is_refused(exported, tmp_path):
    import onnx

    graph = onnx.load(exported)
    info = replace(make().info, conditions=(replace(OBS, shape=(6,)), *CONDITIONS[1:]))
    onnx.helper.set_model_props(graph, {"ncdeploy": info.to_json()})
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(FileError, match=r"obs is float32 \(samples, 2, 3\); expected float32 \(samples, 6\)"):
        open_engine(tmp_path / "m.onnx")
