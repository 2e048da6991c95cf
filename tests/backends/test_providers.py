"""Execution providers of ONNX Runtime: which, with what options, and what is missing for them."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ncdeploy import Condition
from ncdeploy.backends import providers
from ncdeploy.backends.graphs.run import GraphEngine
from ncdeploy.backends.providers import MOST_VALUES, PROVIDERS, choose_providers, load_libraries, quiet
from ncdeploy.errors import BackendError, InputError
from tiny_models import IMAGES

CPU, CUDA, TENSORRT = (PROVIDERS[name] for name in ("cpu", "cuda", "tensorrt"))
ALL = [TENSORRT, CUDA, CPU]


def test_choice_of_providers():
    assert choose_providers("cpu", None, [CPU], IMAGES) == [(CPU, {})]
    exact = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # ONNX Runtime's own default is "1"
    assert choose_providers("cuda:1", None, ALL, IMAGES) == [(CUDA, {"device_id": "1", **exact}), (CPU, {})]
    assert choose_providers("cpu", ["cuda", "cpu"], ALL, IMAGES) == [(CUDA, exact), (CPU, {})]
    rounded = replace(IMAGES, precision="tf32")
    assert choose_providers("cuda", None, ALL, rounded)[0][1]["use_tf32"] == "1"
    for device in ("tpu", "cpu:0", "cuda:x", "tensorrt:-1", ""):
        with pytest.raises(InputError, match="device"):
            choose_providers(device, None, ALL, IMAGES)
    with pytest.raises(InputError, match="one of the two"):
        choose_providers("cuda", [CPU], ALL, IMAGES)
    with pytest.raises(BackendError, match=f"{TENSORRT} is not in this ONNX Runtime.*onnxruntime-gpu"):
        choose_providers("tensorrt", None, [CPU], IMAGES)


def test_tensorrt_gets_the_precision_of_the_graph_and_one_profile_for_all_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    info = replace(IMAGES, precision="fp16", num_classes=3)
    (first, options), (second, cuda), (last, _) = choose_providers("tensorrt:2", None, ALL, info)
    assert (first, second, last) == (TENSORRT, CUDA, CPU)
    assert options["device_id"] == cuda["device_id"] == "2"
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == ("1", "0")
    most = MOST_VALUES // 64
    assert options["trt_profile_min_shapes"] == "x:1x1x8x8,sigma:1,labels:1"
    assert options["trt_profile_max_shapes"] == f"x:{most}x1x8x8,sigma:{most},labels:{most}"
    assert options["trt_engine_cache_path"] == str(tmp_path / "ncdeploy" / "onnxruntime-tensorrt")
    plain = choose_providers("tensorrt", None, ALL, IMAGES)[0][1]
    assert (plain["trt_fp16_enable"], plain["trt_bf16_enable"]) == ("0", "0")
    tokens = Condition(name="tokens", dtype="float32", shape=(77, 1024))
    prompt = choose_providers("tensorrt", None, ALL, replace(IMAGES, conditions=(tokens,)))[0][1]
    assert prompt["trt_profile_max_shapes"] == f"x:{most}x1x8x8,sigma:{most},tokens:13x77x1024,sample:{most}"


class Runtime:
    """As much of onnxruntime as loads libraries."""

    __version__, __file__ = "1.31.1", "onnxruntime/__init__.py"
    severity = 2

    def preload_dlls(self):
        print("Failed to load libcublasLt.so.13")

    def set_default_logger_severity(self, level):
        self.severity = level


@pytest.mark.parametrize(("there", "said"), [(None, "it is not installed"), ("11.4.0.106", "11.4.0.106 is:")])
def test_the_tensorrt_that_onnxruntime_was_built_for(there, said, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", there and SimpleNamespace(__version__=there))
    lost = ["libcublas.so.13", "libnvinfer.so.10", "libnvonnxparser.so.10"]
    monkeypatch.setattr(providers, "missing_libraries", lambda ort, provider: lost)
    with pytest.raises(BackendError, match=r"was built for TensorRT 10 \(libnvinfer.so.10\)") as e:
        load_libraries(Runtime(), [TENSORRT, CUDA])
    assert said in str(e.value)
    assert "pip install 'tensorrt-cu13>=10,<11'; or take --device cuda" in str(e.value)
    load_libraries(Runtime(), [CUDA])
    lost[1:] = []
    load_libraries(Runtime(), [TENSORRT, CUDA])
    assert capsys.readouterr().out == ""  # nothing of what it prints


def test_onnxruntime_is_quiet_for_a_while():
    runtime = Runtime()
    with quiet(runtime):
        assert runtime.severity == 4
    assert runtime.severity == 2


def test_a_graph_with_the_sampler_inside_does_not_go_to_tensorrt(tmp_path):
    with pytest.raises(InputError, match="runs on cpu, cuda or cuda:N"):
        GraphEngine(tmp_path / "sampler.onnx", device="tensorrt")
