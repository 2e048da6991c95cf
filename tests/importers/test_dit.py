"""State dicts of DiT and SiT. dit_golden.npz holds what their own code returned for these weights and inputs."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncdeploy.denoisers.checkpoint import load_model, save_model
from ncdeploy.denoisers.foreign.dit import DiT, DiTConfig
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers import detect_format, import_model

GOLDEN = Path(__file__).parent / "dit_golden.npz"
CONFIG = DiTConfig(width=48, depth=2, heads=4, patch=2, inner=192, outputs=8)
SHAPE, CLASSES = (4, 8, 8), 10
TOLD = {"eps": [3.0, 500.0, 999.0], "flow-to-data": [0.05, 0.5, 0.99]}


def weights() -> dict[str, Tensor]:
    """By a formula, so that another program makes the same."""
    made = {}
    for name, tensor in sorted(DiT(SHAPE, CONFIG, CLASSES).state_dict().items()):
        steps = torch.arange(tensor.numel(), dtype=torch.float64)
        made[name] = (0.15 * (0.37 * steps**1.1 + len(name)).sin()).float().reshape(tensor.shape)
    return made


def inputs() -> tuple[Tensor, Tensor]:
    steps = torch.arange(3 * 4 * 8 * 8, dtype=torch.float64)
    return (1.7 * steps).sin().float().reshape(3, *SHAPE), torch.tensor([1, 10, 4])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As their training leaves it."""
    others = {name: value + 1 for name, value in weights().items()}
    content = {"model": others, "ema": weights(), "opt": {}, "args": argparse.Namespace(model="DiT-XL/2")}
    torch.save(content, tmp_path / "0050000.pt")
    return tmp_path / "0050000.pt"


@pytest.mark.parametrize("predicts", ["eps", "flow-to-data"])
def test_it_returns_what_their_code_does(predicts: str, file: Path, tmp_path: Path) -> None:
    assert detect_format(file) == "dit"
    model = import_model(file, predicts=predicts, num_heads=4)
    assert (model.info.shape, model.info.num_classes, model.info.null_label) == (SHAPE, CLASSES, CLASSES)
    assert any("under 'ema'" in note for note in model.notes)
    assert any("learned variance was dropped" in note for note in model.notes)
    x, labels = inputs()
    with np.load(GOLDEN) as golden:
        wanted = golden[predicts]
    with torch.no_grad():
        found = model.network(x, torch.tensor(TOLD[predicts]), labels).numpy()
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    save_model(tmp_path / "m.pt", model)
    with torch.no_grad():
        sigma = torch.tensor([0.1, 1.0, 10.0])
        assert torch.equal(load_model(tmp_path / "m.pt")(x, sigma, labels), model(x, sigma, labels))


def test_the_time_of_sit_is_1_at_data(file: Path) -> None:
    model = import_model(file, predicts="flow-to-data", num_heads=4)
    x, labels = inputs()
    sigma = torch.tensor([1 / 0.05 - 1, 1.0, 1 / 0.99 - 1])  # where 1 - t is as in the golden file
    with torch.no_grad(), np.load(GOLDEN) as golden:
        clean = 1 / (1 + sigma[:, None, None, None])
        wanted = x + (1 - clean) * torch.from_numpy(golden["flow-to-data"])
        assert torch.allclose(model(x / clean, sigma, labels), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "look alike.*--predicts eps for DiT"),
        ({"predicts": "x0"}, "look alike"),
        ({"predicts": "eps"}, "num-heads"),
        ({"predicts": "eps", "num_heads": 5}, "divisor"),
    ],
)
def test_what_a_file_does_not_say_must_be_said(options: dict[str, Any], message: str, file: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        import_model(file, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pos_embed", torch.zeros(1, 15, 48), "do not fit each other"),
        ("x_embedder.proj.weight", torch.zeros(48, 4), "ranks"),
        ("blocks.99.attn.qkv.weight", torch.zeros(1), "asks for more than|do not belong"),
        ("blocks.1.attn.qkv.weight", torch.zeros(144, 47), "do not belong together"),
        ("final_layer.linear.weight", torch.zeros(36, 48), "outputs: got 9"),
    ],
)
def test_damaged_files_are_refused(name: str, value: Tensor, message: str, tmp_path: Path) -> None:
    torch.save({**weights(), name: value}, tmp_path / "m.pt")
    with pytest.raises(FileError, match=message) as caught:
        import_model(tmp_path / "m.pt", predicts="eps", num_heads=4)
    assert "\n" not in str(caught.value)
