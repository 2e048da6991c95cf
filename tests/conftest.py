"""Tests marked gpu run where PyTorch sees a CUDA device, and are skipped elsewhere; long runs are quiet."""

import signal
import sys

import pytest


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so in a shell's background job; some tests are of Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes short runs long: without this they would say how far they are, where nothing is expected."""
    terminal = sys.modules.get("ncdeploy_cli.terminal")
    if terminal is not None:
        monkeypatch.setattr(terminal, "PERIOD", 3600.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="NOT TESTED: no CUDA device"))
