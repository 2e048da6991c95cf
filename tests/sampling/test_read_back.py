"""From a device to the host: asynchronous, awaited before it is read, and once in a sweep."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ncdeploy.sampling.evaluator as evaluator
import ncdeploy.sampling.parallel as parallel
from ncdeploy import NumericalError, SampleOptions, make_plan, sample
from ncdeploy.errors import InputError
from ncdeploy.modelinfo import ModelInfo
from ncdeploy.sampling.arrays import read_back, to_host
from oracle import digits, error_curve


class Stream:
    """A device's queue: nothing in it happens before somebody waits."""

    def __init__(self):
        self.queue = []

    def run_to(self, length):
        while self.done < length:
            self.queue[self.done]()
            self.done += 1

    done = 0


class Pinned:
    def __init__(self, shape, stream):
        self.content, self.stream = np.full(shape, -1.0), stream

    def copy_(self, source, *, non_blocking):
        assert non_blocking
        self.stream.queue.append(lambda: self.content.__setitem__(..., source.content))

    def __array__(self, dtype=None, copy=None):
        return self.content


class OnDevice:
    is_cuda, device = True, "cuda:0"

    def __init__(self, content, stream):
        self.content, self.shape, self.stream = np.asarray(content, float), np.shape(content), stream

    def new_empty(self, shape, *, device, pin_memory):
        assert (device, pin_memory) == ("cpu", True)
        return Pinned(shape, self.stream)


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()

    class Event:
        def record(self, on):
            assert on is stream
            self.at = len(stream.queue)

        def synchronize(self):
            stream.run_to(self.at)

    cuda = SimpleNamespace(Event=Event, current_stream=lambda device: stream)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return stream


def test_what_is_read_back_was_waited_for_and_no_more(stream):
    later = []
    wait = read_back(OnDevice([1.0, 2.0, 3.0], stream))
    stream.queue.append(lambda: later.append("the next sweep"))
    assert stream.done == 0  # nobody has waited so far
    np.testing.assert_array_equal(wait(), [1.0, 2.0, 3.0])
    assert later == []
    np.testing.assert_array_equal(to_host(OnDevice([4.0], stream)), [4.0])
    assert later == ["the next sweep"]  # in order


def test_without_waiting_the_test_above_would_fail(stream):
    array = OnDevice([1.0, 2.0], stream)
    pinned = array.new_empty(array.shape, device="cpu", pin_memory=True)
    pinned.copy_(array, non_blocking=True)
    np.testing.assert_array_equal(np.asarray(pinned), [-1.0, -1.0])


@pytest.mark.gpu
def test_from_a_gpu():
    busy = torch.randn(2000, 2000, device="cuda")
    for _ in range(20):
        busy = busy @ busy / busy.norm()
    array = torch.arange(6.0, device="cuda").reshape(2, 3) * 2
    wait = read_back(array)
    array += 100  # in stream order, so behind the copy
    np.testing.assert_array_equal(wait(), np.arange(6.0).reshape(2, 3) * 2)


@pytest.mark.parametrize("window", [None, 8])
def test_tensors_are_read_back_once_a_call_and_flags_come_with_the_residual(window, monkeypatch):
    """The check for NaN waits for nothing but what the residual of the same sweep waits for anyway."""
    events = []

    def logged(array):
        what = "flag" if array.ndim == 0 else "residual"
        events.append(f"start {what}")
        arrived = read_back(array)

        def wait():
            events.append(f"wait {what}")
            return arrived()

        return wait

    monkeypatch.setattr(evaluator, "read_back", logged)
    monkeypatch.setattr(parallel, "read_back", logged)
    like = torch.zeros((), dtype=torch.float64)

    def denoise(x, sigma):
        return torch.from_numpy(digits()(x.numpy(), sigma.numpy()))

    result = sample(
        denoise, make_plan("ddim", 20), seeds=range(3), window=window,
        options=SampleOptions(shape=(64,), like=like, error_curve=error_curve()),
    )  # fmt: skip
    sweep = ["start flag", "start residual", "wait residual", "wait flag"] if window else ["start flag", "wait flag"]
    assert events == sweep * result.depth


@pytest.mark.parametrize("bad", [0, 5, 19])
@pytest.mark.parametrize("window", [None, 8])
def test_nan_in_a_tensor_still_names_node_sigma_and_sample(window, bad):
    plan = make_plan("ddim", 20)

    def denoise(x, sigma):
        D = torch.from_numpy(digits()(x.numpy(), sigma.numpy()))
        D[torch.isclose(sigma, torch.tensor(plan.sigmas[bad]))] = torch.nan
        return D

    with pytest.raises(NumericalError, match=rf"node {bad} \(sigma = {plan.sigmas[bad]:.6g}\) of sample 0"):
        sample(
            denoise, plan, seeds=range(2), window=window,
            options=SampleOptions(shape=(64,), like=torch.zeros((), dtype=torch.float64), error_curve=error_curve()),
        )  # fmt: skip


def test_labels_are_checked_before_anything_runs():
    class Engine:
        info = ModelInfo(shape=(2,), sigma_min=0.01, sigma_max=80.0, sigma_data=1.0, num_classes=3)

        def __call__(self, *inputs):
            raise AssertionError("not reached")

    with pytest.raises(InputError, match=r"labels: got \[-1, 9\]; this model takes 0 to 3"):
        sample(Engine(), make_plan("ddim", 5), seeds=range(3), conditions={"labels": [9, 0, -1]})
