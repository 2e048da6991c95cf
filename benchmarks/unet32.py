"""`python -m benchmarks.unet32 build/unet32`: a small U-Net of 32x32 pictures to measure on, model.pt and model.onnx.

It has 0.4 M parameters and learns digits that are drawn in code for some minutes of a CPU, so that its sampling takes
the sweeps of a network that knows something.
"""

import sys
from pathlib import Path

import torch

from benchmarks.gpu.networks import DATA, pictures
from ncdeploy.denoisers import save_model
from ncdeploy.export import export_onnx
from ncdeploy.training import Dataset, TrainConfig, start

NETWORK = {"kind": "unet", "channels": 16, "multipliers": [1, 2, 2], "blocks": 1}


def make(folder: Path) -> Path:
    """The exported network; trained anew."""
    drawn = pictures(4096, 32, torch.Generator().manual_seed(0)).numpy()
    data = Dataset(name=DATA, x=drawn[512:], held_out=drawn[:512])
    training = start(data, TrainConfig(steps=300, batch=48, warmup=30, ema=0.98, device="cpu"), network=NETWORK)
    for _ in training.run():
        pass
    model = training.finish()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model.pt", model)
    export_onnx(model, folder / "model.onnx")
    return folder / "model.onnx"


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else "build/unet32")))
