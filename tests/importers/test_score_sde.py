"""Checkpoints of score_sde. score_sde_golden.npz holds the denoised pictures that follow from what their score function
returned for weights made by a formula, with the names and shapes of those weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from golden import Golden
from ncdeploy.denoisers.checkpoint import load_model, save_model
from ncdeploy.errors import FileError, InputError
from ncdeploy.importers import detect_format, import_model

golden = Golden(Path(__file__).parent / "score_sde_golden.npz")
SHAPE = (3, 8, 8)


def weights(kind: str) -> dict[str, Tensor]:
    made = golden.weights(kind, 0.15, lambda name: len(name) + int(f"{name}.0".split(".")[1]))
    if "sigmas" in made:
        made["sigmas"] = torch.linspace(math.log(50), math.log(0.01), 1000, dtype=torch.float64).exp()
    return made


def checkpoint(path: Path, tensors: dict[str, Tensor]) -> Path:
    """As their training leaves it: the averaged weights without names, and no Fourier features among them."""
    trained = [name for name in tensors if name not in ("sigmas", "all_modules.0.W")]
    content = {
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 2e-4}]},
        "model": {f"module.{name}": value + (name in trained) for name, value in tensors.items()},
        "ema": {"decay": 0.999, "num_updates": 10, "shadow_params": [tensors[name] for name in trained]},
        "step": 10,
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("kind", "process", "options"),
    [
        ("ncsnpp", "ve", {}),
        ("ddpmpp", "vp", {"schedule": "vp"}),
        ("ddpmpp", "linear", {"schedule": "linear"}),
    ],
)
def test_it_denoises_as_their_code_does(kind: str, process: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "checkpoint_24.pth", weights(kind))
    assert detect_format(path) == "score-sde"
    model = import_model(path, shape=SHAPE, **options)
    assert any("'ema'" in note for note in model.notes)
    scale = 2 if process == "ve" else 1  # from data in 0 to 1 to data in -1 to 1
    sigma = scale * torch.from_numpy(golden(f"{process}_sigma")).float()
    x, wanted = (torch.from_numpy(golden(f"{process}_{name}")) for name in ("x", "D"))
    with torch.no_grad():
        found = model(x, sigma)
        away = (found - wanted).abs().amax(dim=(1, 2, 3)) / wanted.abs().amax(dim=(1, 2, 3))
        assert away.max() < 1e-5
        assert ((x - wanted).abs().amax(dim=(1, 2, 3)) > 1e-3).all()  # nothing that x itself would pass
        save_model(tmp_path / "m.pt", model)
        assert torch.equal(load_model(tmp_path / "m.pt")(x, sigma), found)
    if process == "ve":
        assert (model.info.sigma_min, model.info.sigma_max) == pytest.approx((0.02, 100))


def changed(kind: str, **changes: Tensor | None) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {**weights(kind), **{f"all_modules.{name}": value for name, value in changes.items()}}
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        (weights("ddpmpp"), {}, "--schedule vp .* or --schedule linear"),
        (weights("ddpmpp"), {"schedule": "cosine"}, "expected vp"),
        (weights("ncsnpp"), {"schedule": "vp"}, "leave it out"),
        (changed("ncsnpp", **{"99.weight": torch.ones(1)}), {}, "not numbered"),
        (changed("ncsnpp", **{"4.NIN_0.W": torch.ones(16, 16)}), {}, "module 4 is none of"),
        (changed("ncsnpp", **{"4.Conv_0.weight": torch.ones(16, 16, 3, 2)}), {}, "of shape"),
        ({name: value for name, value in weights("ncsnpp").items() if name != "sigmas"}, {}, "lacks its noise levels"),
    ],
)
def test_what_must_be_said_and_what_is_damaged(
    tensors: dict[str, Tensor], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((InputError, FileError), match=message) as caught:
        import_model(checkpoint(tmp_path / "m.pth", tensors), shape=SHAPE, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--shape"):
        import_model(tmp_path / "m.pth", **options)


def test_averaged_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    content = torch.load(checkpoint(tmp_path / "m.pth", weights("ncsnpp")), weights_only=True)
    content["ema"]["shadow_params"].reverse()
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(FileError, match="another shape"):
        import_model(tmp_path / "m.pth", shape=SHAPE)
