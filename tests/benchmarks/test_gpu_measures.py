"""What the GPU benchmark says is so: it sees a planted host copy, a planted slow driver, and other precisions."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ncdeploy import make_plan
from ncdeploy.denoisers import Mixture

MEANS = np.random.default_rng(0).uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32)


class Engine:
    """A mixture as an engine; `also` is done with every batch."""

    max_rows = None

    def __init__(self, also=lambda x: None):
        self.mixture, self.also = Mixture(MEANS, 0.1), also
        self.info = self.mixture.info

    def __call__(self, x, sigma):
        self.also(x)
        with torch.inference_mode():
            return self.mixture(x, sigma).clone()


PLANTED = {
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "to device": lambda x: x.to(device=torch.device("cpu")),
    "numpy": lambda x: x.numpy(),
    "asarray": np.asarray,
    "tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("window", [None, 8])
def test_the_drivers_bring_residuals_to_the_host_and_no_state(window):
    from benchmarks.gpu.measure import copies

    found = copies(Engine(), make_plan("ddpm", 60), 3, window, "cpu")
    assert found["state_stays"]
    assert found["python"]["copies"] >= 1
    assert found["python"]["largest"] <= found["residual_bytes"] == 4 * 3 * (window or 1)
    assert (found["device"], found["device_reason"]) == (None, "needs a CUDA device")


@pytest.mark.parametrize("how", PLANTED)
def test_a_planted_copy_of_the_state_is_seen(how):
    from benchmarks.gpu.measure import copies

    found = copies(Engine(PLANTED[how]), make_plan("ddpm", 60), 1, 8, "cpu")
    assert not found["state_stays"]
    assert found["python"]["largest"] == 8 * 64 * 4
    clean = copies(Engine(), make_plan("ddpm", 60), 1, 8, "cpu")
    assert found["python"]["copies"] == clean["python"]["copies"] + 1


def event(name, size, cat="gpu_memcpy"):
    return {"ph": "X", "cat": cat, "name": name, "ts": 1, "dur": 2, "args": {"bytes": size, "device": 0}}


def test_a_trace_of_the_device_is_read():
    """The form in which PyTorch's profiler writes copies and kernels."""
    from benchmarks.gpu.copies import Copy, read_trace

    trace = {
        "traceEvents": [
            {"ph": "M", "name": "process_name"},
            event("Memcpy DtoH (Device -> Pageable)", 128),
            event("Memcpy HtoD (Pinned -> Device)", 64),
            event("Memcpy DtoD (Device -> Device)", 4096),
            event("cudaMemcpyAsync", 0, cat="cuda_runtime"),
            event("void at::native::vectorized_elementwise_kernel", 0, cat="kernel"),
            event("Memset (Device)", 8, cat="gpu_memset"),
        ]
    }
    found = read_trace(trace)
    assert found.kernels == 1
    assert found.copies == (
        Copy(direction="DtoH", bytes=128), Copy(direction="HtoD", bytes=64), Copy(direction="DtoD", bytes=4096)
    )  # fmt: skip
    del trace["traceEvents"][1]["args"]["bytes"]
    with pytest.raises(KeyError):
        read_trace(trace)


@pytest.mark.parametrize(("largest", "stays"), [(4 * 8, True), (4 * 8 * 64, False)])
def test_what_the_device_copied_counts_too(monkeypatch, largest, stays):
    from benchmarks.gpu import measure
    from benchmarks.gpu.copies import Activity, Copy

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **options: zeros(*size, **options))

    def profiled(run):
        run()
        return Activity(copies=(Copy(direction="DtoH", bytes=largest), Copy(direction="HtoD", bytes=800)), kernels=160)

    monkeypatch.setattr(measure, "device_copies", profiled)
    found = measure.copies(Engine(), make_plan("ddpm", 60), 1, 8, "cuda")
    assert found["state_stays"] is stays
    assert found["device"] == {"copies": 1 / 8, "bytes": largest / 8, "largest": largest, "bytes_to_device": 100}
    assert (found["kernels"], found["device_reason"]) == (20, "")
    monkeypatch.setattr(measure, "device_copies", lambda run: run())
    blind = measure.copies(Engine(), make_plan("ddpm", 60), 1, 8, "cuda")
    assert blind["device_reason"] == "the profiler recorded no device activity"


def test_the_machine_is_recorded(monkeypatch, tmp_path):
    from benchmarks.gpu.machine import machine

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X, 580.1, 1980 MHz, 3201 MHz, 1980 MHz, 3201 MHz, 700.00 W, 41'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    board = SimpleNamespace(name="NVIDIA X", total_memory=2**37, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: board)
    found = machine("cuda")
    assert (found["gpu"], found["gpu_bytes"], found["compute_capability"]) == ("NVIDIA X", 2**37, "9.0")
    assert found["smi"]["driver_version"] == "580.1"
    assert found["smi"]["clocks.sm"] == "1980 MHz"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine("cuda")["smi"] == {}


@pytest.mark.timing
def test_a_slow_driver_is_seen(monkeypatch):
    from benchmarks.gpu import measure

    engine, plan, effort = Engine(lambda x: time.sleep(0.002)), make_plan("ddim", 20), measure.Effort(repetitions=1)
    clean = measure.overhead(engine, plan, 1, 10, "cpu", effort)
    own = measure.sample

    def slow(*args, **options):
        result = own(*args, **options)
        time.sleep(2 * clean["seconds"])
        return result

    monkeypatch.setattr(measure, "sample", slow)
    planted = measure.overhead(engine, plan, 1, 10, "cpu", effort)
    assert planted["overhead"] > clean["overhead"] + 0.5
    assert planted["calls"] == clean["calls"]
    assert planted["rows"] == clean["rows"] >= 20


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp32", 0.0, 0.0), ("fp16", 1e-6, 5e-3), ("bf16", 1e-5, 5e-2)]
)
def test_precisions_are_what_they_are_called(precision, least, most):
    from benchmarks.gpu.engines import InPrecision
    from ncdeploy.denoisers import build, default_config

    small = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [], "width": 16}
    model = build(default_config((1, 8, 8), network=small))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    x, sigma = torch.randn(4, 1, 8, 8), torch.full((4,), 0.5)
    with torch.inference_mode():
        off = (InPrecision(model, precision)(x, sigma) - model(x, sigma)).abs().max()
    assert least <= float(off) <= most
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("side", [8, 32])
def test_pictures_are_digits_that_every_machine_draws_alike(side):
    from benchmarks.gpu.networks import pictures

    found = pictures(64, side, torch.Generator().manual_seed(0))
    assert found.shape == (64, 1, side, side)
    assert float(found.min()) == -1
    assert float(found.max()) == 1
    assert torch.equal(found, pictures(64, side, torch.Generator().manual_seed(0)))
    assert 0.4 < float(found.std()) < 0.9
    assert float((found[:, None] - found[None]).abs().flatten(2).amax(-1).fill_diagonal_(1).min()) > 0.1


def test_training_learns():
    from benchmarks.gpu.networks import Recipe, train

    _, steps, short = train(Recipe(side=8, steps=5, seconds=60, batch=16, tiny=True), "cpu")
    model, _, long = train(Recipe(side=8, steps=80, seconds=60, batch=16, tiny=True), "cpu")
    assert steps == 5
    assert long < 0.8 * short
    curve = model.info.error_curve
    assert curve is not None
    assert curve.mse[0] < 0.01 < curve.mse[-1]
