"""The doctor on machines that are well, and on machines that are ill in known ways."""

import json
from dataclasses import replace

import onnx
import pytest

from ncdeploy.backends.tensorrt.cudart import Gpu
from ncdeploy.doctor.diagnosis import cure, diagnose
from ncdeploy.doctor.machine import TINY_MODEL, Machine

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
WELL = Gpu(compute_capability=(9, 0), name="NVIDIA H200", driver="13.1", runtime="13.0")
NONE = Gpu(failure="CUDA: no CUDA-capable device is detected (cudaGetDeviceCount)", driver="none", runtime="13.0")


class Imagined:
    """A healthy CPU machine, unless told otherwise."""

    def __init__(
        self,
        *,
        installed=None,
        failures=None,
        providers=None,
        broken=None,
        gpus=(),
        torch_gpus=(),
        cuda=WELL,
        lost=None,
    ):
        self.installed = {"torch": "2.13.0", "onnx": "1.23", "onnxscript": "0.7", "onnxruntime": "1.31"}
        self.installed |= installed or {}
        self.failures, self.broken = failures or {}, broken or {}
        self.compiled, self.boards, self.usable = providers or [CPU], list(gpus), list(torch_gpus)
        self.runtime, self.lost = cuda, lost or {}

    def version(self, distribution):
        return self.installed.get(distribution)

    def failure(self, module):
        return self.failures.get(module)

    def providers(self):
        return self.compiled

    def provider_failure(self, provider):
        return self.broken.get(provider)

    def missing(self, provider):
        return self.lost.get(provider, [])

    def gpus(self):
        return self.boards

    def torch_gpus(self):
        return self.usable

    def cuda(self):
        return self.runtime


def finding(diagnosis, name):
    return next(f for f in diagnosis.findings if f.name == name)


def problems(diagnosis):
    return [f.name for f in diagnosis.findings if f.status == "problem"]


def test_a_healthy_machine():
    diagnosis = diagnose(Imagined())
    assert diagnosis.usable
    assert problems(diagnosis) == []
    assert finding(diagnosis, "provider CPU").status == "ok"
    assert json.loads(json.dumps(diagnosis.to_dict()))["usable"] is True


def test_both_onnxruntimes():
    diagnosis = diagnose(Imagined(installed={"onnxruntime-gpu": "1.30"}))
    assert problems(diagnosis) == ["onnxruntime clash"]
    clash = finding(diagnosis, "onnxruntime clash")
    assert "onnxruntime 1.31 and onnxruntime-gpu 1.30" in clash.detail
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in clash.remedy


def test_nothing_installed():
    nothing = dict.fromkeys(["torch", "onnx", "onnxscript", "onnxruntime"])
    diagnosis = diagnose(Imagined(installed=nothing))
    assert not diagnosis.usable
    assert "'.[cpu]'" in finding(diagnosis, "onnxruntime").remedy
    assert "'.[torch]'" in finding(diagnosis, "torch").remedy


@pytest.mark.parametrize(("missing", "usable"), [("torch", True), ("onnxruntime", True), ("onnx", True)])
def test_one_runtime_is_enough(missing, usable):
    diagnosis = diagnose(Imagined(installed={missing: None}))
    assert diagnosis.usable is usable
    assert finding(diagnosis, missing).status == "absent"


def test_installed_but_broken():
    broken = {"torch": "libcudart.so.13: cannot open shared object file", "onnxruntime": "DLL load failed"}
    diagnosis = diagnose(Imagined(failures=broken))
    assert not diagnosis.usable
    assert problems(diagnosis) == ["torch", "onnxruntime"]
    assert "libcudart.so.13" in finding(diagnosis, "torch").detail


def test_a_cuda_provider_that_does_not_start():
    machine = Imagined(
        installed={"onnxruntime": None, "onnxruntime-gpu": "1.31"},
        providers=[CUDA, CPU],
        broken={CUDA: "libcublasLt.so.12: cannot open shared object file"},
        gpus=["NVIDIA L4, 580.1"],
    )
    diagnosis = diagnose(machine)
    assert diagnosis.usable
    assert problems(diagnosis) == ["provider CUDA", "gpu"]
    assert "libcublasLt" in finding(diagnosis, "provider CUDA").detail
    machine.broken = {}
    assert problems(diagnose(machine)) == []
    assert "used by onnxruntime" in finding(diagnose(machine), "gpu").detail


def test_every_library_that_is_missing_is_named_with_its_pip_line():
    said = "libcublasLt.so.12: cannot open shared object file"
    assert cure(said, "x") == "pip install nvidia-cublas-cu12"
    lost = ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcuda.so.1"]
    machine = Imagined(
        installed={"onnxruntime": None, "onnxruntime-gpu": "1.31"}, providers=[TENSORRT, CUDA, CPU], cuda=NONE,
        broken={CUDA: "it leaves even 1 + 1 to the CPU", TENSORRT: "x"},
        lost={CUDA: lost, TENSORRT: ["libnvinfer.so.10", "libnvonnxparser.so.10"]},
    )  # fmt: skip
    cuda, tensorrt = (finding(diagnose(machine), f"provider {name}") for name in ("CUDA", "Tensorrt"))
    assert cuda.detail == ", ".join(lost) + " missing"
    assert cuda.remedy == "install the NVIDIA driver; pip install nvidia-cublas nvidia-curand"
    assert (tensorrt.status, tensorrt.detail) == ("absent", "libnvinfer.so.10, libnvonnxparser.so.10 missing")
    assert tensorrt.remedy == "only for --device tensorrt: pip install 'tensorrt-cu13>=10.13,<11'"
    assert cure("libcudart.so.13: cannot", "x").endswith("pip install nvidia-cuda-runtime")
    assert cure("libsomething.so.4: cannot", "x") == cure("no reason", "x") == "x"


def test_tensorrt_for_rtx():
    """It builds without a GPU; what its engines do not run on is said."""
    there = {"tensorrt-rtx-cu13-bindings": "1.7.1.116", "polygraphy": "0.53.6"}
    ada = Gpu(compute_capability=(8, 9), name="NVIDIA L4", driver="13.1", runtime="13.0")
    for cuda, detail in [
        (NONE, "1.7.1.116"), (ada, "1.7.1.116"), (replace(ada, compute_capability=(7, 5)), "1.7.1.116"),
        (WELL, "1.7.1.116; builds engines that this GPU of compute capability 9.0 cannot run"),
    ]:  # fmt: skip
        found = finding(diagnose(Imagined(installed=there, cuda=cuda)), "tensorrt for rtx")
        assert (found.status, found.detail) == ("ok", detail)
    absent = finding(diagnose(Imagined()), "tensorrt for rtx")
    assert (absent.status, absent.remedy.endswith("pip install 'ncdeploy[rtx]'")) == ("absent", True)
    old = finding(diagnose(Imagined(installed={**there, "tensorrt-rtx-cu13-bindings": "1.6.0.1"})), "tensorrt for rtx")
    assert (old.status, old.detail) == ("problem", "1.6.0.1 is not 1.7")
    alone = Imagined(installed={"tensorrt-rtx-cu13-bindings": "1.7.1.116"}, cuda=ada)
    alone = finding(diagnose(alone), "tensorrt for rtx")
    assert alone.detail.endswith("to build them: pip install polygraphy")


def test_tensorrt():
    absent = finding(diagnose(Imagined()), "tensorrt")
    assert (absent.status, "pip install tensorrt-cu13" in absent.remedy) == ("absent", True)
    board = ["NVIDIA H200, 580.1"]
    well = diagnose(Imagined(installed={"tensorrt-cu13": "11.4.0.106", "polygraphy": "0.53.6"}, gpus=board))
    assert finding(well, "tensorrt").detail == "11.4.0.106"
    assert finding(well, "cuda").detail == "the driver supports CUDA 13.1, the runtime is 13.0"
    assert "used by tensorrt" in finding(well, "gpu").detail
    old = finding(diagnose(Imagined(installed={"tensorrt": "10.9.0.34"})), "tensorrt")
    assert (old.status, old.remedy) == ("problem", "pip install 'tensorrt>=10.12,<12'")
    for version, status in (("10.11.9", "problem"), ("10.12.0", "ok"), ("11.99.1", "ok"), ("12.0.1", "problem")):
        assert finding(diagnose(Imagined(installed={"tensorrt": version})), "tensorrt").status == status
    lost = Gpu(failure="no CUDA runtime: libcudart.so.13: cannot open shared object file")
    ill = diagnose(Imagined(installed={"tensorrt-cu13": "11.4"}, gpus=board, cuda=lost))
    assert problems(ill) == ["cuda", "gpu"]
    assert finding(ill, "cuda").remedy.endswith("pip install nvidia-cuda-runtime")


def test_driver_and_runtime_are_named_where_they_do_not_fit():
    old = Gpu(failure="CUDA: CUDA driver version is insufficient (cudaGetDeviceCount)", driver="12.4", runtime="13.0")
    found = finding(diagnose(Imagined(gpus=["NVIDIA L4, 550.1"], cuda=old)), "cuda")
    assert (found.status, found.remedy) == ("problem", "install a driver that fits: see nvidia-smi")
    assert found.detail.endswith("the driver supports CUDA 12.4, the runtime is 13.0")
    without = diagnose(Imagined(cuda=NONE))  # no GPU: of no interest
    assert all(f.name != "cuda" for f in without.findings)


def test_a_cpu_provider_that_computes_wrongly_is_not_usable():
    diagnosis = diagnose(Imagined(installed={"torch": None}, broken={CPU: "computes 1 + 1 = 3.0"}))
    assert not diagnosis.usable


def test_every_problem_has_one_remedy():
    ill = Imagined(
        installed={"onnxruntime-gpu": "1.30", "tensorrt": "11.4"},
        failures={"torch": "x", "onnx": "x", "onnxscript": "x", "tensorrt": "libnvinfer.so.11"},
        providers=[CUDA, CPU],
        broken={CUDA: "x", CPU: "x"},
        gpus=["NVIDIA L4"],
    )
    found = [f for f in diagnose(ill).findings if f.status == "problem"]
    assert len(found) == 8
    assert finding(diagnose(ill), "tensorrt").remedy == "pip install 'tensorrt-cu13>=11,<12'"
    assert all(f.remedy and "\n" not in f.remedy for f in found)


def test_the_tiny_model_is_valid_onnx():
    onnx.checker.check_model(onnx.load_from_string(TINY_MODEL), full_check=True)


def test_this_machine():
    """The tests need torch and onnxruntime, so both must be found to work."""
    machine = Machine()
    assert machine.provider_failure(CPU) is None
    assert machine.provider_failure("NoSuchExecutionProvider") is not None
    assert machine.failure("json") is None
    assert "no_such_module" in machine.failure("no_such_module")
    diagnosis = diagnose()
    assert diagnosis.usable
    assert {finding(diagnosis, name).status for name in ("torch", "onnxruntime", "provider CPU")} == {"ok"}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Node (add): fallback to CPU EP has been explicitly disabled by the user", "it leaves even 1 + 1 to the CPU"),
        ("libfoo.so.1: cannot open shared object file\nat line 12", "libfoo.so.1: cannot open shared object file"),
    ],
)
def test_why_a_provider_does_not_run_is_told_in_one_line(monkeypatch, said, told):
    import onnxruntime

    def refuse(*_args, **_options):
        raise RuntimeError(said)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    assert Machine().provider_failure(CPU) == told
