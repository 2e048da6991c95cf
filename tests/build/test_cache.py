"""What makes an engine another, so that one in the cache is taken for no other."""

from dataclasses import fields, replace

import pytest

from ncdeploy.backends.tensorrt.preflight import Machine
from ncdeploy.build.cache import engine_key
from ncdeploy.formats.profiles import Profile
from ncdeploy.formats.sidecar import BuildOptions

CARD = Machine(
    device="NVIDIA H200", compute_capability=(9, 0), tensorrt="11.4.0.106", driver="13.1", runtime="tensorrt",
    platform="linux-x86_64",
)  # fmt: skip
ROWS = Profile(least=1, best=2, most=4)
USUAL = {"onnx_sha256": "0" * 64, "profiles": [ROWS], "precision": "fp16", "options": BuildOptions(), "machine": CARD}
OTHER = {
    "onnx_sha256": "1" * 64, "profiles": [replace(ROWS, best=3)], "precision": "bf16", "targets": [(8, 9)],
    **{f"options.{f.name}": {bool: True, str: "ampere_plus"}.get(type(f.default), 5) for f in fields(BuildOptions)},
    "machine.device": "NVIDIA H100", "machine.compute_capability": (8, 9), "machine.tensorrt": "11.4.0.107",
    "machine.platform": "linux-aarch64", "machine.runtime": "rtx",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_whatever_makes_an_engine_another_makes_another_key(name: str) -> None:
    record, _, field = name.partition(".")
    value = replace(USUAL[record], **{field: OTHER[name]}) if field else OTHER[name]
    assert engine_key(**USUAL) == engine_key(**USUAL) != engine_key(**{**USUAL, record: value})


def test_an_engine_for_cards_elsewhere_is_the_same_whatever_card_is_here() -> None:
    here = replace(CARD, runtime="rtx")
    for elsewhere in (replace(here, device="", compute_capability=None), replace(here, driver="12.9")):
        assert engine_key(**{**USUAL, "machine": here}) == engine_key(**{**USUAL, "machine": elsewhere})
