"""Records of files: what is unknown is left out, what is required is refused, and nothing odd is a traceback."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bundle_files import INFO
from ncdeploy import FileError, InputError, ModelInfo, make_plan
from ncdeploy.formats.graphrecord import GraphRecord
from ncdeploy.formats.manifest import FileEntry, Manifest, PlanEntry, read_manifest
from ncdeploy.formats.profiles import profiles_for
from ncdeploy.formats.sidecar import BuildOptions, Sidecar

RICH = replace(INFO, default_plan={"solver": "ddim", "steps": 9}, versions={"torch": "2"})
ENGINE = Sidecar(
    tensorrt="11.4.0.106", compute_capability=(9, 0), device="GPU", driver="13.0", platform="linux-x86_64",
    plan_sha256="0" * 64, plan_bytes=104, onnx="m.onnx", onnx_sha256="0" * 64, model=RICH, command="build",
    profiles=profiles_for(4, 8, 8), options=BuildOptions(workspace=1), layers={"fp16": 3}, device_memory=0,
    parity={"ok": True}, latency=((1, 0.5),),
)  # fmt: skip
GRAPH = GraphRecord(kind="sweep", plan=make_plan("ddim", 9), plan_input=False, window=4, span=4, reach=1, sweeps=2)
FILES = {name: FileEntry(bytes=1, sha256="0" * 64) for name in ("model.onnx", "plans/a.ncplan")}
PLANS = (PlanEntry(name="a", file="plans/a.ncplan", window=2, tolerance=1e-3),)
BUNDLE = Manifest(engine="model.onnx", model=RICH, plans=PLANS, files=FILES, parity=None, versions={"numpy": "2"})
RECORDS = {
    "model": (RICH.to_json(), ModelInfo.from_json),
    "sidecar": (ENGINE.to_json(), Sidecar.from_json),
    "graph": (GRAPH.to_json(), GraphRecord.from_json),
    "manifest": (BUNDLE.to_bytes().decode(), lambda text: read_manifest(text.encode(), "manifest.json")),
}
ODD = [
    None, True, 0, -1, 1.5, 1e308, 2**53, "", "x", [], {}, [[]], [None], [[1.0], [1.0, 2.0]], [1, "a"], {"a": {}},
    "NaN", [float("nan")], float("nan"), float("inf"), float("-inf"), 10**300, 10**4000,
]  # fmt: skip


@pytest.fixture(params=RECORDS)
def record(request):
    text, read = RECORDS[request.param]
    return json.loads(text), lambda value: read(value if isinstance(value, str) else json.dumps(value))


def objects(value: Any) -> list[dict[str, Any]]:
    """Every object of a record that has a table of fields of its own."""
    if isinstance(value, list):
        return [part for inner in value for part in objects(inner)]
    if not isinstance(value, dict):
        return []
    free = ("versions", "parity", "layers", "default_plan")
    inside = [part for name, inner in value.items() if name not in (*free, "files") for part in objects(inner)]
    return [value, *inside, *value.get("files", {}).values()]


def refused(read: Any, value: Any) -> str:
    with pytest.raises(FileError) as e:
        read(value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500
    return str(e.value)


def test_an_unknown_field_is_left_out_anywhere(record):
    value, read = record
    before = read(value)
    for part in objects(value):
        part["later"] = {"deep": [1, None]}
    assert read(value) == before


def test_a_required_unknown_field_is_refused_by_name_anywhere(record):
    value, read = record
    for part in objects(value):
        part["requires"] = list(part)[-1:]
    read(value.copy())  # what is known may be required
    for part in objects(value):
        part["requires"] = ["later"]
        said = refused(read, value)
        assert "'later'" in said
        assert "update ncdeploy" in said
        del part["requires"]


def test_a_wrong_value_anywhere_is_one_line(record):
    """Or, where the field may hold it, a record that can be written again."""
    value, read = record
    said = set()
    for part in objects(value):
        for name in list(part):
            kept = part[name]
            for odd in ODD:
                part[name] = odd
                try:
                    read(value)
                except FileError as e:
                    said.add(str(e))
            part[name] = kept
    assert len(said) > 50
    assert not [text for text in said if "\n" in text or len(text) > 500]


def test_a_format_is_that_number(record):
    value, read = record
    key = "version" if "version" in value else "format"
    for odd in (True, 1.0, 2, 0, "1", None):
        assert "update ncdeploy" in refused(read, value | {key: odd})


def test_text_that_is_no_record(record):
    _, read = record
    deep = "[" * 100_000 + "]" * 100_000
    for text in ("", "{", "[]", "null", "1" * 5000, deep, f'{{"format": {deep}}}', '{"format": 1, "format": 1}', "{}"):
        refused(read, text)


@pytest.mark.parametrize("name", ["offset", "scale", "sigma_min", "sigma_max", "sigma_data"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), "1", None, True])
def test_numbers_of_a_model_are_finite_numbers(name, wrong):
    with pytest.raises(InputError, match=name):
        replace(INFO, **{name: wrong})


def test_a_scale_of_zero_makes_no_data():
    with pytest.raises(InputError, match=r"scale: got 0\.0, expected a finite number other than 0"):
        replace(INFO, scale=0.0)
