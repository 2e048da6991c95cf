"""Two small networks to measure on beside the demo's, model.pt and model.onnx, trained for some minutes of a CPU.

    python -m benchmarks.small unet32 build/unet32  # a U-Net of 32x32 pictures: digits drawn in code, 0.4 M parameters
    python -m benchmarks.small mlp build/mlp        # an MLP of the 8x8 digits

Their sampling takes the sweeps of networks that know something.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.gpu.networks import DATA, pictures
from ncdeploy.denoisers import save_model
from ncdeploy.export import export_onnx
from ncdeploy.training import Dataset, TrainConfig, Training, load_data, start


def unet32() -> Training:
    drawn = pictures(4096, 32, torch.Generator().manual_seed(0)).numpy()
    data = Dataset(name=DATA, x=drawn[512:], held_out=drawn[:512])
    network = {"kind": "unet", "channels": 16, "multipliers": [1, 2, 2], "blocks": 1}
    return start(data, TrainConfig(steps=300, batch=48, warmup=30, ema=0.98, device="cpu"), network=network)


def mlp() -> Training:
    network = {"kind": "mlp", "width": 256, "blocks": 3}
    return start(load_data("digits", seed=0), TrainConfig(steps=1500, batch=128, device="cpu"), network=network)


NETWORKS = {"unet32": unet32, "mlp": mlp}


def make(name: str, folder: Path) -> Path:
    """The exported network; trained anew."""
    training = NETWORKS[name]()
    for _ in training.run():
        pass
    model = training.finish()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model.pt", model)
    export_onnx(model, folder / "model.onnx")
    return folder / "model.onnx"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(make(given.network, given.folder))
