"""CUDA graphs of a module: few sizes, batches filled up, the right rows back. A capture is played here by a function
that is run again on the same memory."""

from threading import Thread

import pytest
import torch

from ncdeploy.backends.torch_graphs import GraphedModule
from ncdeploy.sampling.callsizes import CallSizes


class Tape:
    """Stands in for `capture`: replaying runs the function again and writes its result where it was."""

    def __init__(self):
        self.captures, self.replays = 0, 0

    def __call__(self, run, pool):
        self.captures += 1
        output = torch.full_like(run(), float("nan"))  # a captured graph has computed nothing yet

        def replay():
            self.replays += 1
            output.copy_(run())

        return replay, output, (pool or 0) + 1


def module(x, sigma, labels):
    return x * sigma[:, None] + (0 if labels is None else labels[:, None])


@pytest.mark.parametrize("labelled", [False, True])
def test_any_number_of_rows_gives_what_the_module_gives(labelled):
    tape, sizes = Tape(), set()
    graphed = GraphedModule(module, tape, CallSizes())
    for rows in [5, 1, 64, 7, 33, 5, 2, 48]:
        x, sigma = torch.randn(rows, 3), torch.rand(rows)
        labels = torch.arange(rows) if labelled else None
        assert torch.equal(graphed(x, sigma, labels), module(x, sigma, labels))
        sizes.add(CallSizes().fit(rows))
    assert tape.captures == len(sizes) == 6
    assert tape.replays == 8


def test_conditions_are_read_again_in_every_call():
    def conditional(x, sigma, labels, conditions, sample):
        return x * sigma[:, None] + conditions["obs"][sample] + labels[:, None]

    tape = Tape()
    graphed = GraphedModule(conditional, tape, CallSizes())
    for rows, samples in [(5, 2), (6, 2), (5, 3), (5, 2), (3, 2)]:
        x, sigma, labels = torch.randn(rows, 3), torch.rand(rows), torch.arange(rows)
        given = {"conditions": {"obs": torch.randn(samples, 3)}, "sample": torch.randint(samples, (rows,))}
        assert torch.equal(graphed(x, sigma, labels, **given), conditional(x, sigma, labels, **given))
    assert tape.captures == 3, "of 6 rows with 2 and with 3 samples, of 3 rows"


def test_few_sizes_and_little_waste():
    padded = CallSizes().fit
    assert [padded(n) for n in range(1, 18)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]
    assert len({padded(n) for n in range(1, 1025)}) == 20
    assert all(n <= padded(n) < 1.5 * n for n in range(1, 1025))


def test_rows_that_fill_up_are_sound():
    """Their values must not be able to raise: copies of a row that was given."""
    seen = []

    def watch(x, sigma):
        seen.append((x.clone(), sigma.clone()))
        return x

    GraphedModule(watch, Tape(), CallSizes())(torch.ones(5, 2), torch.arange(1.0, 6.0))
    x, sigma = seen[-1]
    assert x.shape == (6, 2)
    assert sigma.tolist() == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_captured_runs_as_it_is_and_lack_of_memory_is_said(error):
    def refuse(run, pool):
        raise error("no")

    graphed = GraphedModule(module, refuse, CallSizes())
    x, sigma = torch.randn(5, 3), torch.rand(5)
    if error is RuntimeError:
        assert torch.equal(graphed(x, sigma, None), module(x, sigma, None))
    else:
        with pytest.raises(error):
            graphed(x, sigma, None)


def test_each_thread_has_graphs_of_its_own():
    tape = Tape()
    graphed = GraphedModule(module, tape, CallSizes())
    x, sigma = torch.randn(5, 3), torch.rand(5)
    graphed(x, sigma, None)
    thread = Thread(target=lambda: graphed(x, sigma, None))
    thread.start()
    thread.join()
    assert tape.captures == 2
