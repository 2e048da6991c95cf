"""benchmarks/ is not installed; its tests find it beside the library."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
        yield
