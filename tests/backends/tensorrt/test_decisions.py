"""What is decided about engines by plain functions: profiles, cache keys, records, pre-flight, types of layers."""

import dataclasses
import json
from dataclasses import replace

import pytest

from ncdeploy.backends.tensorrt.layers import check_layers, layer_types, list_layers
from ncdeploy.backends.tensorrt.preflight import (
    Machine,
    check_engine,
    check_machine,
    mismatch,
    parse_version,
    platform_name,
)
from ncdeploy.build.cache import engine_file, engine_key, timing_file
from ncdeploy.errors import BackendError, DependencyError, FileError, InputError
from ncdeploy.formats.profiles import Profile, choose, profiles_for
from ncdeploy.formats.sidecar import BuildOptions, Sidecar, digest, read_sidecar, sidecar_path, write_sidecar
from tiny_models import IMAGES

MACHINE = Machine(
    tensorrt="11.4.0.106", compute_capability=(9, 0), device="NVIDIA H200", driver="13.0", platform="linux-x86_64"
)
RECORD = Sidecar(
    tensorrt="11.4.0.106",
    compute_capability=(9, 0),
    device="NVIDIA H200",
    driver="13.0",
    platform="linux-x86_64",
    plan_sha256="ab" * 32,
    plan_bytes=100,
    onnx="model.onnx",
    onnx_sha256="cd" * 32,
    model=IMAGES,
    profiles=profiles_for(16, 64, 32),
    options=BuildOptions(),
    layers={"fp16": 30},
    device_memory=1 << 20,
    command="ncdeploy build model.onnx -o model.plan",
    latency=((1, 0.001), (512, 0.01)),
)


def test_profiles_come_from_use():
    assert profiles_for(16, 64, 32) == (Profile(least=1, best=16, most=16), Profile(least=17, best=512, most=1024))
    assert profiles_for(1, 64, 32) == (Profile(least=1, best=1, most=1), Profile(least=2, best=32, most=64))
    assert profiles_for(4, 1, 1) == (Profile(least=1, best=4, most=4),)
    assert profiles_for(4, 8, 1)[1] == Profile(least=5, best=5, most=32)
    for samples, window in [(1, 2), (3, 7), (16, 64)]:  # every number of rows up to the most has one place
        profiles = profiles_for(samples, window, 2)
        for rows in range(1, samples * window + 1):
            at = choose(profiles, rows)
            assert [i for i, p in enumerate(profiles) if p.least <= rows <= p.most] == [at]
        with pytest.raises(InputError, match=f"takes 1 to {samples * window}"):
            choose(profiles, samples * window + 1)
    for wrong in [(0, 1, 1), (1, 0, 1), (4, 8, 9), (4, 8, 0)]:
        with pytest.raises(InputError):
            profiles_for(*wrong)


def test_the_key_changes_with_everything_that_matters_and_nothing_else():
    base = ("ab" * 32, profiles_for(16, 64, 32), "fp16", BuildOptions(), MACHINE)
    others = [
        ("ac" * 32, *base[1:]),
        (base[0], profiles_for(16, 64, 16), *base[2:]),
        (*base[:2], "bf16", *base[3:]),
        (*base[:4], replace(MACHINE, tensorrt="11.4.0.107")),
        (*base[:4], replace(MACHINE, compute_capability=(8, 9))),
        (*base[:4], replace(MACHINE, device="NVIDIA H100")),
        (*base[:4], replace(MACHINE, platform="windows-amd64")),
    ]
    changed = {"hardware_compatible": "ampere_plus", "workspace": 1, "level": 4}
    others += [
        (*base[:3], replace(BuildOptions(), **{field.name: changed.get(field.name, True)}), MACHINE)
        for field in dataclasses.fields(BuildOptions)
    ]
    keys = [engine_key(*given) for given in [base, *others]]
    assert len(set(keys)) == len(keys)
    assert engine_key(*base[:4], replace(MACHINE, driver="13.1")) == keys[0]


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert timing_file(MACHINE) == tmp_path / "ncdeploy" / "timing-11.4.0.106-sm90.cache"
    assert engine_file("key") == tmp_path / "ncdeploy" / "engines" / "key.plan"


def test_the_record_survives_the_disk(tmp_path):
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"abc")
    write_sidecar(plan, RECORD)
    assert read_sidecar(plan) == RECORD
    assert sidecar_path(plan).name == "model.plan.json"
    assert digest(plan) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads(RECORD.to_json())["profiles"] == [[1, 16, 16], [17, 512, 1024]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: "{", "not valid JSON"),
        (lambda r: "[]", "holds a JSON list"),
        (lambda r: json.dumps({**r, "format": 2}), "format 2"),
        (lambda r: json.dumps({**r, "requires": ["extra"]}), "needs the field 'extra'"),
        (lambda r: json.dumps({**r, "runtime": "trt"}), "damaged.*runtime"),
        (lambda r: json.dumps({**r, "onnx": "../model.onnx"}), "damaged.*onnx"),
        (lambda r: json.dumps({**r, "targets": [86]}), "damaged.*targets"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "plan_sha256"}), "damaged.*plan_sha256"),
        (lambda r: json.dumps({**r, "profiles": [[4, 2, 1]]}), "damaged"),
        (lambda r: json.dumps({**r, "options": {"tf32": 1}}), "damaged.*tf32"),
        (lambda r: json.dumps({**r, "compute_capability": 9}), "damaged"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, change, said):
    (tmp_path / "m.plan.json").write_text(change(json.loads(RECORD.to_json())))
    with pytest.raises(FileError, match=said) as e:
        read_sidecar(tmp_path / "m.plan")
    assert "\n" not in str(e.value)
    assert "m.plan.json" in str(e.value)


def test_options_are_checked():
    for wrong in ({"hardware_compatible": "all"}, {"level": 6}, {"workspace": 0}):
        with pytest.raises(InputError):
            BuildOptions(**wrong)


def test_preflight():
    check_engine("m.plan", RECORD, RECORD.plan_sha256, MACHINE)
    free = replace(RECORD, options=BuildOptions(version_compatible=True, hardware_compatible="ampere_plus"))
    check_engine("m.plan", free, RECORD.plan_sha256, replace(MACHINE, tensorrt="11.5.0.1", compute_capability=(8, 6)))


@pytest.mark.parametrize(
    ("record", "machine", "error", "said"),
    [
        ({}, {"tensorrt": None}, DependencyError, r"pip install tensorrt-cu13.*ncdeploy sample --engine model\.onnx"),
        ({}, {"tensorrt": None, "tensorrt_failure": "libnvinfer.so.11"}, DependencyError, "libnvinfer.so.11"),
        ({}, {"tensorrt": "10.11.0.33"}, BackendError, "expected 10.12 to 11"),
        ({}, {"tensorrt": "12.0.0.1"}, BackendError, "expected 10.12 to 11"),
        ({}, {"compute_capability": None, "gpu_failure": "no driver"}, BackendError, "no driver.*ncdeploy doctor"),
        ({}, {"tensorrt": "11.4.0.107"}, BackendError, r"with TensorRT 11\.4\.0\.106 and runs on no other"),
        ({}, {"compute_capability": (8, 9)}, BackendError, r"capability 9\.0 \(NVIDIA H200\), this GPU has 8\.9"),
        ({}, {"platform": "windows-amd64"}, BackendError, "for linux-x86_64, this is windows-amd64"),
        ({"plan_sha256": "00" * 32}, {}, FileError, "not the file"),
        (
            {"options": BuildOptions(version_compatible=True)}, {"tensorrt": "11.3.0.9"}, BackendError,
            "from 11.4.0.106 on",
        ),
        (
            {"options": BuildOptions(version_compatible=True)}, {"tensorrt": "10.16.0.72"}, BackendError,
            "TensorRT 11 from",
        ),
        (
            {"options": BuildOptions(hardware_compatible="ampere_plus")}, {"compute_capability": (7, 5)}, BackendError,
            "this GPU has 7.5",
        ),
        (
            {"options": BuildOptions(hardware_compatible="same_compute_capability")}, {"compute_capability": (8, 9)},
            BackendError, "this GPU has 8.9",
        ),
    ],
)  # fmt: skip
def test_preflight_answers_in_one_line_with_what_to_do(record, machine, error, said):
    with pytest.raises(error, match=said) as e:
        check_engine("m.plan", replace(RECORD, **record), "ab" * 32, replace(MACHINE, **machine))
    assert "\n" not in str(e.value)
    assert "ncdeploy build model.onnx -o model.plan" in str(e.value) or "ncdeploy sample" in str(e.value)


def test_versions():
    assert [parse_version(v) for v in ("11.4.0.106", "10.14.1.48.post1", "")] == [(11, 4, 0, 106), (10, 14, 1, 48), ()]
    assert mismatch(RECORD, MACHINE) == ""
    assert "-" in platform_name()
    for supported in ("10.12.0.36", "10.16.0.72", "11.4.0.106"):
        check_machine(replace(MACHINE, tensorrt=supported), "")


# The inspector's own words as public records show them: "Row major linear FP16 format" of a convolution and
# "N/A due to dynamic shapes" (TensorRT 8, and 10.1 in github.com/NVIDIA/TensorRT/issues/4020), "Half" and "Float" with
# Metadata since 10. The layers around these words are made up.
def layer(origin, *types, kind="gemm", key="Format/Datatype", name=""):
    tensors = [{"Name": f"t{i}", "Dimensions": [1, 2], key: text} for i, text in enumerate(types)]
    return {
        "Name": name or f"__myl_{kind}", "LayerType": kind, "Inputs": tensors[:1], "Outputs": tensors[1:],
        "Metadata": f"[ONNX Layer: {origin}]" if origin else "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Row major linear FP16 format", "fp16"), ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half", "fp16"), ("Row major linear FP32", "fp32"), ("Float", "fp32"), ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"), ("Row major Int8 format", None), ("Int64", None), ("Bool", None),
        ("N/A due to dynamic shapes", None),
    ],
)  # fmt: skip
def test_the_inspectors_words(text, name):
    for key in ("Format/Datatype", "Datatype", "DataType"):
        assert layer_types(layer("a", text, text, key=key)) == ({name} if name else set())


# The same two layers in the words of TensorRT 10 (as in github.com/NVIDIA/TensorRT/issues/4397: a product of Myelin's
# and a fused kernel) and of 11 (docs.nvidia.com, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x": the
# bindings became I/O Tensors, and Format/Datatype was split). Names, shapes and tactics are made up.
TENSORRT_10 = """{"Layers": [{
  "Name": "network_inner/linear_myl0_7", "LayerType": "gemm",
  "Inputs": [{"Name": "__mye12'.1_11", "Dimensions": [16,64], "Format/Datatype": "Half"}],
  "Outputs": [{"Name": "__myln_k_arg__bb1_12", "Dimensions": [16,64], "Format/Datatype": "Half"}],
  "TacticName": "sm80_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize32x32x64", "StreamId": 0,
  "Metadata": "[ONNX Layer: network.inner/linear][ONNX Layer: network.inner/add]"
},{
  "Name": "__myl_CastMeanSubMulMeanAddSqrtDivMul_myl0_8", "LayerType": "kgen",
  "Inputs": [{"Name": "__myln_k_arg__bb1_12", "Dimensions": [16,64], "Format/Datatype": "Half"}],
  "Outputs": [{"Name": "__mye56_13", "Dimensions": [16,64], "Format/Datatype": "Float"}],
  "TacticName": "__myl_CastMeanSubMulMeanAddSqrtDivMul_0xf2", "StreamId": 0,
  "Metadata": "[ONNX Layer: network.norm/layer_norm]"
}],
"Bindings": ["x", "sigma", "denoised"]}"""
TENSORRT_11 = """{"Layers": [{
  "Name": "network_inner/linear_myl0_7", "LayerType": "gemm",
  "Inputs": [{"Name": "__mye12'.1_11", "Dimensions": [16,64], "Format": "Linear", "Datatype": "Half"}],
  "Outputs": [{"Name": "__myln_k_arg__bb1_12", "Dimensions": [16,64], "Format": "Linear", "Datatype": "Half"}],
  "TacticName": "sm90_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize32x32x64", "StreamId": 0,
  "Metadata": "[ONNX Layer: network.inner/linear][ONNX Layer: network.inner/add]"
},{
  "Name": "__myl_CastMeanSubMulMeanAddSqrtDivMul_myl0_8", "LayerType": "kgen",
  "Inputs": [{"Name": "__myln_k_arg__bb1_12", "Dimensions": [16,64], "Datatype": "Half"}],
  "Outputs": [{"Name": "__mye56_13", "Dimensions": [16,64], "Datatype": "Float"}],
  "TacticName": "__myl_CastMeanSubMulMeanAddSqrtDivMul_0xf2", "StreamId": 0,
  "Metadata": "[ONNX Layer: network.norm/layer_norm]"
}],
"I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1,64], "Location": "Device",
  "IsShapeInferenceIO": false, "ProfileInfo": [{"MinShape": [1,64], "OptShape": [16,64], "MaxShape": [16,64],
  "Format": "Row major linear FP32 format (kLINEAR)"}]}]}"""


@pytest.mark.parametrize("text", [TENSORRT_10, TENSORRT_11], ids=["10", "11"])
def test_both_ways_in_which_tensorrt_describes_its_layers(text):
    assert check_layers(text, "fp16", ["network.inner/linear"]) == {"fp16": 1}
    assert check_layers(text, "fp16", []) == {"fp16": 1}  # by the kind of layer, where no operator's name survived
    with pytest.raises(BackendError, match=r"not fp16: of 1 layers .* 1 compute in fp32"):
        check_layers(text.replace('"Half"', '"Float"'), "fp16", ["network.inner/linear"])
    product, norm = list_layers(text, {"network_inner/linear_myl0_7": 0.02})
    assert (product.kind, product.types, product.milliseconds) == ("gemm", ("fp16",), 0.02)
    assert product.origins == ("network.inner/linear", "network.inner/add")
    assert (norm.types, norm.milliseconds) == (("fp16", "fp32"), None)


def inspected(*layers):
    return json.dumps({"Layers": list(layers), "Bindings": ["x"]})


def test_the_precision_is_read_back():
    convolution = layer("net.a/conv]\x1f[ONNX Layer: net.a/relu", "Half", "Half", kind="CaskConvolution")
    fused = layer("net.b/matmul", "Float", "Half")
    noise = layer("embedding/linear", "Float", "Float")
    pointwise = layer("net.c/silu", "Float", "Float", kind="kgen")
    found = check_layers(inspected(convolution, fused, noise, pointwise), "fp16", ["net.a/conv", "net.b/matmul"])
    assert found == {"fp16": 2}
    assert check_layers(inspected(noise, pointwise), "fp32", []) == {"fp32": 1}
    assert check_layers(inspected(noise), "tf32", []) == {"fp32": 1}
    bf16 = layer("net.a/conv", "BFloat16", "BFloat16", key="Datatype")
    assert check_layers(inspected(bf16), "bf16", ["net.a/conv"]) == {"bf16": 1}
    unnamed = layer("", "Row major linear FP16 format", "Row major linear FP16 format", name="Conv_0 + Relu_1")
    assert check_layers(inspected(unnamed), "fp16", ["Conv_0"]) == {"fp16": 1}


@pytest.mark.parametrize(
    ("text", "precision", "said"),
    [
        (inspected(layer("a", "Float", "Float"), layer("b", "Float", "Float")), "fp16", "2 compute in fp32"),
        (inspected(layer("a", "Half", "Half")), "bf16", "1 compute in fp16"),
        (inspected(layer("a", "Half", "Half"), layer("b", "Float", "Float")), "fp32", "not fp32"),
        (inspected(layer("a", "N/A due to dynamic shapes")), "fp16", "not certain"),
        (json.dumps({"Layers": ["Conv_0 + Relu_1", "MaxPool"]}), "fp16", "not certain"),
        ("{}", "fp16", "cannot be read back"),
        ("", "fp16", "cannot be read back"),
    ],
)
def test_a_precision_that_is_not_there_is_an_error(text, precision, said):
    with pytest.raises(BackendError, match=said):
        check_layers(text, precision, ["a", "b"])
