"""On a device of its own, which a CPU can imagine: everything stays there but a report of each sweep."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

ROOT = Path(__file__).resolve().parents[2]
START = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import numpy as np, torch
import imagined_device as device
from benchmarks.gpu.measure import copies
from ncdeploy import make_plan, sample
from ncdeploy.denoisers import Mixture
from ncdeploy.auto.latency import Latency
from keywords import grouped

mixture = Mixture(np.random.default_rng(0).uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32), 0.1)
here, curve, shape = torch.zeros(()), mixture.info.error_curve, (1, 8, 8)
latency = Latency(rows=(1, 64), seconds=(1.0, 1.01), asked=64)
there = device.Imagined(here)
on_device = {{name: device.Imagined(value) for name, value in mixture.named_buffers()}}
def denoise(x, sigma):
    buffers = on_device if x.device.type == "imagined" else {{}}
    with torch.no_grad():
        return torch.func.functional_call(mixture, buffers, (x, sigma))
"""

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="NOT TESTED: this PyTorch cannot imagine a device",
)


def run(code: str) -> str:
    """In a process of its own, for it gains a device."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_samples_are_those_of_the_cpu_and_nothing_else_leaves_the_device() -> None:
    run("""
auto = {"window": "auto", "latency": latency, "max_rows": 64, "error_curve": curve}
for plan, ways in (
    (make_plan("ddpm", 24), ({}, {"window": 6, "error_curve": curve}, auto)),
    (make_plan("unipc", 10), ({}, {"window": 4, "max_rows": 8})),
):
    for n in 1, 3:
        for options in ways:
            options = {"shape": shape, "seeds": range(n), **options}
            device.COPIES.clear()
            with device.Device():
                got = sample(denoise, plan, **grouped(like=there, **options))
            assert isinstance(got.samples, device.Imagined)
            torch.testing.assert_close(got.samples.held, sample(denoise, plan, **grouped(like=here, **options)).samples)
            assert 0 <= got.depth - len(device.COPIES) <= (got.window is not None), "one flag a call, or report a sweep"
            assert max(device.COPIES) <= (1 if got.window is None else 8 * (7 + len(plan)) * n), max(device.COPIES)
""")


def test_the_benchmark_counts_what_the_device_sees() -> None:
    """`HostReads` watches Python, the imagined device its operators: both know of every copy, a planted one too."""
    run("""
for plant in (lambda x: None), (lambda x: x.cpu()), (lambda x: x[0, 0, 0, 0].item()), (lambda x: bool((x > 0).all())):
    def engine(x, sigma):
        plant(x)
        return denoise(x, sigma)
    engine.info = mixture.info
    plan = make_plan("ddim", 20)
    with device.Device():
        for window in None, 6:
            device.COPIES.clear()
            found = copies(engine, plan, 1, window, "imagined", sweeps=1000)
            seen = device.COPIES[-round(found["python"]["copies"] * found["sweeps"]):]
            assert found["python"]["bytes"] * found["sweeps"] == sum(seen)
            assert found["python"]["largest"] == max(seen)
            planted = plant(torch.ones(1, 1, 1, 1)) is not None
            assert found["python"]["copies"] == 1 + planted, found
""")


def test_the_imagined_device_is_strict() -> None:
    run("""
import pytest
with device.Device():
    a = torch.ones(3, device="imagined")
    for mixed in (lambda: a + torch.ones(3), lambda: torch.ones(3) * a, lambda: a.numpy(),
                  lambda: torch.cat([a, torch.ones(3)]), lambda: np.asarray(a)):
        with pytest.raises((RuntimeError, TypeError)):
            mixed()
    a[1:] = torch.full((2,), 5.0)  # copied there
    assert (2 * a).cpu().tolist() == [2, 10, 10]
""")
