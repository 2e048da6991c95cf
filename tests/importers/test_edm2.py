"""Pickles of EDM2. edm2_golden.npz holds what their own code returned for weights made by a formula, with the names and
shapes of those weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edm_files
from golden import Golden
from ncdeploy.denoisers.checkpoint import load_model, save_model
from ncdeploy.errors import FileError
from ncdeploy.importers import detect_format, import_model

golden = Golden(Path(__file__).parent / "edm2_golden.npz")
ARGUMENTS = {
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}
SIGMA = torch.tensor([0.05, 1.0, 40.0])
LABELS = {"classes": torch.tensor([0, 3, 1]), "none": None}


def weights(kind: str) -> dict[str, Tensor]:
    return golden.weights(kind, 0.7, lambda name: len(f"unet.{name}"))


def write(path: Path, kind: str, tensors: dict[str, Tensor] | None = None, **arguments: Any) -> Path:
    """As their training leaves it, in structure, with source code that must not run."""
    source = "raise SystemExit('the source was run')"
    outer, inner = edm_files.Layer("Precond", source), edm_files.Layer("UNet", source)
    outer.__dict__.update(
        img_resolution=8, img_channels=3, label_dim=4 * (kind == "classes"), use_fp16=True, sigma_data=0.5
    )
    inner.__dict__.update(_init_args=(), _init_kwargs={**ARGUMENTS, **arguments})
    outer.unet = inner
    for name, tensor in (weights(kind) if tensors is None else tensors).items():
        *steps, leaf = name.split(".")
        at: nn.Module = inner
        for step in steps:
            if step not in at._modules:
                at.add_module(step, nn.ModuleDict() if step in ("enc", "dec") else edm_files.Layer("Layer"))
            at = at._modules[step]  # type: ignore[assignment]
        at.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    vae = edm_files.Layer("StabilityVAEEncoder" if kind == "classes" else "StandardRGBEncoder", source)
    vae.__dict__.update(scale=np.float32(0.5) / np.float32([4.2, 4.6, 3.7]), bias=np.float32([-0.7, -0.4, 0.1]))
    content = {"ema": outer, "encoder": vae, "dataset_kwargs": {"path": "imagenet.zip"}, "loss_fn": None}
    path.write_bytes(edm_files.dumps(content))
    return path


def inputs() -> Tensor:
    x = (1.7 * torch.arange(3 * 3 * 8 * 8, dtype=torch.float64)).sin().float().reshape(3, 3, 8, 8)
    return x * SIGMA.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", LABELS)
def test_it_denoises_as_their_code_does(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "edm2.pkl", kind)
    assert detect_format(path) == "edm"
    model = import_model(path)
    assert (model.info.num_classes, model.info.null_label) == (4 * (kind == "classes"), None)
    assert any("latents" in note for note in model.notes) == (kind == "classes")
    save_model(tmp_path / "m.pt", model)
    wanted = torch.from_numpy(golden(f"{kind}_D"))
    with torch.no_grad():
        found = model(inputs(), SIGMA, LABELS[kind])
        assert torch.equal(load_model(tmp_path / "m.pt")(inputs(), SIGMA, LABELS[kind]), found)
    apart = (found - wanted).abs().amax(dim=(1, 2, 3)) / wanted.abs().amax(dim=(1, 2, 3))
    assert apart.max() < 1e-5
    skipped = inputs() * (0.25 / (SIGMA**2 + 0.25)).reshape(-1, 1, 1, 1)
    assert ((skipped - wanted).abs().amax(dim=(1, 2, 3)) > 1e-3).all()  # nothing that passes without the network


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"enc.4x4_block0.conv_res0.weight": torch.ones(32, 32, 3, 2)}, {}, "has shape"),
        ({"enc.4x4_block9.emb_gain": torch.ones(())}, {}, "without a weight"),
        ({"out_conv.weight": torch.ones(3)}, {}, "has 1 axes"),
        ({}, {"channels_per_head": 7}, "cannot be shared"),
        ({}, {"channel_mult": [1, 2, 2, 2, 2]}, "divisible|asks for more"),
        ({}, {"res_balance": 2.0}, "expected 0 to 1"),
        ({}, {"model_channels": 10**6}, "has shape|lacks"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    changes: dict[str, Tensor], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "edm2.pkl", "none", {**weights("none"), **changes}, **arguments)
    with pytest.raises(FileError, match=message) as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
