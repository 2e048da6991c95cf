"""Pictures: one that a network concatenates to x, as super-resolution and inpainting do; and a decoder to a picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ncdeploy import Condition, Value, export_onnx, export_part, make_bundle, make_plan, open_engine, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.importers.module import wrap_module

LATENT = (2, 4, 4)
SMALL = Condition(name="small", dtype="float32", shape=(1, 2, 2))
WORDS = Value(name="words", dtype="int64", shape=(3,))
PLAN = make_plan("ddim", 10, schedule="karras")
N = 4


class Concatenating(nn.Module):
    """Takes x and a smaller picture, enlarged, as channels of one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor, small: Tensor) -> Tensor:
        told = noise[:, None, None, None].expand(-1, 1, 4, 4)
        large = interpolate(small, scale_factor=2.0)
        result: Tensor = 0.3 * self.last(self.first(torch.cat([x, large, told], 1)).tanh())
        return result


class Prompt(nn.Module):
    """Words to the small picture."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, words: Tensor) -> Tensor:
        result: Tensor = self.table(words).mean(1).reshape(-1, 1, 2, 2)
        return result


class Enlarging(nn.Module):
    """A latent to a grey picture in -1 .. 1."""

    def forward(self, x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0).mean(1, keepdim=True).tanh()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, nn.Module, nn.Module]:
    folder = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    model = wrap_module(Concatenating(), shape=LATENT, predicts="F", conditions=[SMALL]).eval()
    prompt, enlarging = Prompt().eval(), Enlarging()
    export_onnx(model, folder / "m.onnx", threads=1)
    export_part(prompt, folder / "e.onnx", role="encoder", of=model, inputs=[WORDS], threads=1)
    export_part(enlarging, folder / "d.onnx", role="decoder", of=model, outputs=["picture"], threads=1)
    make_bundle(
        folder / "m.onnx", folder / "b", plans=[PLAN], encoder=folder / "e.onnx", decoder=folder / "d.onnx", threads=1
    )
    return folder / "b", model, prompt, enlarging


@pytest.mark.parametrize("window", [None, 4, 10])
def test_from_words_to_a_picture_as_in_pytorch(chain, tmp_path: Path, window: int | None) -> None:
    bundle, model, prompt, enlarging = chain
    words = np.arange(3 * N).reshape(N, 3) % 5
    with open_engine(bundle, threads=1) as engine:
        found = sample(engine, PLAN, seeds=range(N), conditions={"words": words}, window=window, tolerance=0)
    with torch.inference_mode():
        small = prompt(torch.from_numpy(words))
        latents = sample(TorchBackend(model, threads=1), PLAN, seeds=range(N), conditions={"small": small.numpy()})
        pictures = enlarging(torch.from_numpy(latents.samples)).numpy()
    assert np.abs(found.samples - latents.samples).max() < 1e-4
    assert np.abs(found.decoded - pictures).max() < 1e-4
    assert len({picture.tobytes() for picture in found.decoded}) == N
    found.save(tmp_path / "folder")
    with Image.open(tmp_path / "folder" / "0.png") as picture:
        shown = np.asarray(picture, np.float64) / 127.5 - 1
    assert np.abs(shown - pictures[0, 0]).max() < 1 / 127
