"""The core under the sanitizers: its own tests, and damaged files, which C++ and Python must read alike."""

import copy
import hashlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bundle_files import INFO, PLANS, reseal, write_engine
from cpp_build import run
from mutations import mutate
from ncdeploy import ErrorCurve, FileError, __version__, make_plan
from ncdeploy.bundle import make_bundle
from ncdeploy.formats.manifest import read_manifest
from ncdeploy.formats.planfile import decode, encode
from ncdeploy.formats.sidecar import Sidecar, sidecar_path
from plan_files import RULES, plan_bytes
from tiny_models import write_mixture

COUNTS = [500, pytest.param(10_000, marks=pytest.mark.slow)]


class Probe:
    """tests/probe.cpp: one answer for each thing shown."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [folder / "tests" / "probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, kind: str, data: bytes) -> str:
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._process.stdin.write(kind.encode() + struct.pack("<I", len(data)) + data)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read().decode()
        return line.decode().rstrip("\n")

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def probe(sanitized: Path):
    with_sanitizers = Probe(sanitized)
    yield with_sanitizers
    with_sanitizers.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("cpp")
    return make_bundle(write_mixture(folder / "m.onnx", INFO, np.eye(5)), folder / "b", plans=PLANS, window=16)


def test_ctest_passes_under_the_sanitizers(sanitized: Path) -> None:
    assert "100% tests passed" in run("ctest", "--test-dir", sanitized, "--output-on-failure")


def test_the_version_is_that_of_the_python_package(sanitized: Path) -> None:
    cache = (sanitized / "CMakeCache.txt").read_text()
    assert f"CMAKE_PROJECT_VERSION:STATIC={__version__}\n" in cache


def plan_in_words(data: bytes) -> str:
    """As tests/probe.cpp says it."""
    try:
        stored = decode(data, "plan")
    except FileError:
        return "refused"
    plan, jacobian = stored.plan, np.zeros(0) if stored.jacobian is None else stored.jacobian
    columns = [plan.sigmas, plan.state, plan.denoised, plan.noise, jacobian, plan.evaluated]
    columns += [] if plan.cut is None else [np.array(plan.clip), plan.cut]
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
    return f"{plan.name} {len(plan)} {plan.reach} {digest}"


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_plans_are_read_as_python_reads_them(probe: Probe, count: int) -> None:
    rng = np.random.default_rng(0)
    curve = ErrorCurve(sigmas=(0.01, 100.0), mse=(1e-5, 0.3))
    files = [encode(plan, np.where(plan.evaluated, curve.jacobian(plan.sigmas), 0.0)) for plan in PLANS]
    files += [encode(plan) for plan in (*PLANS, make_plan("ddim", 9, clip=0.5, raw_noise=True))]
    assert [probe("p", data) for data in files] == [plan_in_words(data) for data in files]
    refused = 0
    for i in range(count):
        data = mutate(files[i % len(files)], rng)
        answer = probe("p", data)
        refused += answer.startswith("refused: plan: ")
        assert answer.split(": ")[0] == plan_in_words(data), answer
    assert count / 10 < refused < count, "some changes of a coefficient leave a plan, most changes do not"


def manifest_in_words(data: bytes) -> str:
    try:
        manifest = read_manifest(data, "manifest")
    except FileError:
        return "refused"
    info = manifest.model
    words = [manifest.engine, f"{info.num_classes}{int(info.unconditional)}{int(info.guidance)}", info.precision]
    words += [str(word) for plan in manifest.plans for word in (plan.name, plan.file, plan.window)]
    words += [str(word) for name, f in sorted(manifest.files.items()) for word in (name, f.bytes, f.sha256)]
    numbers = [
        info.sigma_min,
        info.sigma_max,
        info.sigma_data,
        info.offset,
        info.scale,
        *info.shape,
        *(info.mean or ()),
    ]
    numbers += [plan.tolerance for plan in manifest.plans]
    return " ".join(words).replace("\n", " ") + " " + hashlib.sha256(np.array(numbers, float).tobytes()).hexdigest()


def test_every_rule_of_a_plan_is_kept(probe: Probe) -> None:
    assert probe("p", plan_bytes()) == plan_in_words(plan_bytes())
    for rule, change in RULES.items():
        assert probe("p", plan_bytes(change)).startswith("refused: plan: "), rule


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_manifests_are_read_as_python_reads_them(probe: Probe, bundle, count: int) -> None:
    rng = np.random.default_rng(1)
    whole = (bundle.path / "manifest.json").read_bytes()
    assert probe("m", whole) == manifest_in_words(whole)
    for _ in range(count):
        data = mutate(whole, rng)
        answer = probe("m", data)
        assert (answer if not answer.startswith("refused: manifest: ") else "refused") == manifest_in_words(data), (
            answer
        )


@pytest.mark.parametrize("count", COUNTS)
def test_a_bundle_with_any_change_is_refused(probe: Probe, bundle, count: int) -> None:
    rng = np.random.default_rng(2)
    names = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert probe("b", bytes(bundle.path)) == f"whole: {len(PLANS)} plans"
    for i in range(count):
        path = names[i % len(names)]
        before = path.read_bytes()
        path.write_bytes(mutate(before, rng))
        try:
            answer = probe("b", bytes(bundle.path))
        finally:
            path.write_bytes(before)
        assert answer.startswith(f"refused: {bundle.path}/"), answer


def test_digests_that_were_made_to_fit_do_not_help(probe: Probe, bundle) -> None:
    path = bundle.path / "plans" / "ddim-20.ncplan"
    before, manifest, digest = (
        f.read_bytes() for f in (path, bundle.path / "manifest.json", bundle.path / "manifest.sha256")
    )
    try:
        path.write_bytes(before[:8] + struct.pack("<I", 2**31) + before[12:])
        reseal(bundle.path, "plans/ddim-20.ncplan")
        assert "nodes: got 2147483648, expected 2 to 65536" in probe("b", bytes(bundle.path))
    finally:
        path.write_bytes(before)
        (bundle.path / "manifest.json").write_bytes(manifest)
        (bundle.path / "manifest.sha256").write_bytes(digest)


def records(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every object of a manifest that is a record, by what messages call it."""
    return {
        "the manifest": manifest, "model": manifest["model"], "plan": manifest["plans"][0],
        "model.onnx": manifest["files"]["model.onnx"], "error_curve": manifest["model"]["error_curve"],
    }  # fmt: skip


def test_unknown_fields_are_left_out_unless_they_are_required(probe: Probe, bundle) -> None:
    """The same files, read by C++ and by Python."""
    whole = json.loads((bundle.path / "manifest.json").read_text())
    for name in records(whole):
        changed = copy.deepcopy(whole)
        record = records(changed)[name]
        record["colour"] = {"red": [1, None]}
        data = json.dumps(changed).encode()
        assert probe("m", data) == manifest_in_words(data) == manifest_in_words(json.dumps(whole).encode()), name
        record["requires"] = ["colour"]
        data = json.dumps(changed).encode()
        with pytest.raises(FileError, match="needs the field 'colour', which this version does not know"):
            read_manifest(data, "manifest")
        assert "needs the field 'colour', which this version does not know; update ncdeploy" in probe("m", data), name


def test_so_are_those_beside_a_tensorrt_engine(probe: Probe, tmp_path: Path) -> None:
    whole = json.loads(sidecar_path(write_engine(tmp_path / "e.plan")).read_text())
    for pick in (lambda record: record, lambda record: record["options"]):
        changed = copy.deepcopy(whole)
        pick(changed)["colour"] = 1
        assert probe("s", json.dumps(changed).encode()) == "stripped 0, version_compatible 0"
        Sidecar.from_json(json.dumps(changed))
        pick(changed)["requires"] = ["colour"]
        assert "needs the field 'colour', which this version does not" in probe("s", json.dumps(changed).encode())
        with pytest.raises(FileError, match="needs the field 'colour'"):
            Sidecar.from_json(json.dumps(changed))


def test_an_engine_of_tensorrt_for_rtx_is_known(probe: Probe, tmp_path: Path) -> None:
    whole = json.loads(sidecar_path(write_engine(tmp_path / "e.plan")).read_text())
    whole |= {"runtime": "rtx", "targets": ["sm86"], "requires": ["runtime", "targets"]}
    assert probe("s", json.dumps(whole).encode()) == "stripped 0, version_compatible 0, rtx"
    whole["runtime"] = "other"
    assert "runtime is neither tensorrt nor rtx" in probe("s", json.dumps(whole).encode())


def test_values_outside_a_graph_must_be_in_the_manifest(probe: Probe, bundle, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(bundle.engine), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=64, convert_attribute=True,
    )  # fmt: skip
    made = make_bundle(tmp_path / "m.onnx", tmp_path / "b", plans=PLANS, window=16, verify=False)
    assert probe("b", bytes(made.path)) == f"whole: {len(PLANS)} plans"
    manifest = json.loads((made.path / "manifest.json").read_text())
    del manifest["files"]["weights.bin"]
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    reseal(made.path)
    assert "model.onnx: has values in 'weights.bin', which the manifest lacks" in probe("b", bytes(made.path))
