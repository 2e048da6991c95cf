"""A hundred files of other projects, and damaged ones of those that are read: one line each, which names the file, and
what it is where that can be told."""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edm_files
from importers import test_cdl, test_dit, test_edm2, test_score_sde
from ncdeploy.denoisers import build, default_config, save_model
from ncdeploy.errors import NcdeployError
from ncdeploy.importers import import_model

NOTHING = "none of the known formats"


def saved(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return stream.getvalue()


def named(*names: str) -> bytes:
    return saved(dict.fromkeys(names, torch.ones(1)))


def array(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    save(stream, np.ones(3))
    return stream.getvalue()


FOREIGN: dict[str, tuple[bytes, str]] = {
    "llama.gguf": (b"GGUF\3\0\0\0", "GGUF"),
    "llama.bin": (b"lmgg\3\0\0\0", "GGML"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "net.keras": (zipped("config.json", "model.weights.h5"), "Keras"),
    "net.tflite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "frozen.pb": (b"\x0a\x10node", "TensorFlow"),
    "flax.msgpack": (b"\x82\xa6params", "JAX"),
    "net.mlmodel": (b"\x08\x05", "Core ML"),
    "net.caffemodel": (b"\x0a\x05", "Caffe"),
    "net.pdparams": (pickle.dumps({"w": [1]}), "PaddlePaddle"),
    "net.pdmodel": (b"\x0a\x05", "PaddlePaddle"),
    "net.params": (b"\x12\x01\0\0\0\0\0\0\0", "MXNet"),
    "net.param": (b"7767517\n10 10\n", "ncnn"),
    "openvino.xml": (b"<?xml version='1.0'?><net/>", "OpenVINO"),
    "net.plan": (b"ftrt\0\0", "TensorRT"),
    "net.engine": (b"vtrt\0\0", "TensorRT"),
    "net.onnx": (b"\x08\x08\x12\x04test", "ONNX"),
    "ddim.ncplan": (b"\0\0", "a plan of noise levels"),
    "script.pt": (zipped("script/constants.pkl", "script/data.pkl"), "TorchScript"),
    "net.pt2": (zipped("net/archive_format", "net/models/model.json"), "exported program"),
    "weights.npz": (zipped("w.npy"), "NumPy arrays"),
    "weights.npy": (array(np.save), "NumPy array"),
    "files.zip": (zipped("unet/config.json"), "zip archive"),
    "files.tar": (b"\0" * 257 + b"ustar\0", "tar archive"),
    "files.tgz": (b"\x1f\x8b\x08", "gzip"),
    "files.bz2": (b"BZh9", "bzip2"),
    "files.xz": (b"\xfd7zXZ\0", "xz"),
    "files.zst": (b"\x28\xb5\x2f\xfd\0", "zstd"),
    "files.lz4": (b"\x04\x22\x4d\x18\0", "lz4"),
    "files.rar": (b"Rar!\x1a\x07", "RAR"),
    "files.7z": (b"7z\xbc\xaf\x27\x1c", "7z"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "page.pt": (b"<!DOCTYPE html><html>", "web page"),
    "page.ckpt": (b"<html><head>", "web page"),
    "picture.png": (b"\x89PNG\r\n", "picture"),
    "picture.jpg": (b"\xff\xd8\xff\xe0", "picture"),
    "picture.gif": (b"GIF89a", "picture"),
    "picture.webp": (b"RIFF\0\0\0\0WEBP", "picture"),
    "film.mp4": (b"\0\0\0\x20ftypisom", "film"),
    "paper.pdf": (b"%PDF-1.7", "document"),
    "table.parquet": (b"PAR1\0", "Parquet"),
    "table.mat": (b"MATLAB 5.0 MAT-file", "MATLAB"),
    "table.sqlite": (b"SQLite format 3\0", "database"),
    "library.so": (b"\x7fELF\2\1", "library"),
    "train.py": (b"import torch\n", "Python source"),
    "demo.ipynb": (b"{}", "notebook"),
    "notes.txt": (b"hello", NOTHING),
    "config.json": (b'{"a": 1}', NOTHING),
    "config.yaml": (b"a: 1\n", NOTHING),
    "table.csv": (b"x,y\n1,2\n", NOTHING),
    "empty.pt": (b"", "empty"),
    "zeros.pt": (bytes(64), NOTHING),
    "random.bin": (np.random.default_rng(0).bytes(512), NOTHING),
    "sklearn.pkl": (pickle.dumps({"coef": [1.0], "when": Path("a")}), "pickle"),
    "sd.ckpt": (named("first_stage_model.x", "model.diffusion_model.input_blocks.0.0.weight"), "Stable Diffusion"),
    "sdxl.pt": (named("conditioner.embedders.0.x"), "latent diffusion"),
    "sd3.pt": (named("joint_blocks.0.x", "x_embedder.proj.weight"), "Stable Diffusion 3"),
    "flux.pt": (named("double_blocks.0.x", "single_blocks.0.y"), "Flux"),
    "pixart.pt": (named("scale_shift_table", "transformer_blocks.0.x"), "PixArt"),
    "lora.pt": (named("unet.lora_up.weight"), "LoRA"),
    "unet.bin": (named("down_blocks.0.x", "time_embedding.linear_1.weight"), "folder with its config"),
    "vae.bin": (named("encoder.down_blocks.0.x", "decoder.up_blocks.0.x"), "autoencoder of diffusers"),
    "kl-f8.pt": (named("encoder.down.0.x", "decoder.up.0.x"), "autoencoder of latent diffusion"),
    "milestone-7.pt": (named("downs.0.0.block1.proj.weight", "init_conv.weight"), "denoising-diffusion-pytorch"),
    "policy.pt": (named("noise_pred_net.x"), "policy"),
    "classifier.pt": (named("input_blocks.0.0.weight", "time_embed.0.weight"), "classifier"),
    "last.ckpt": (saved({"pytorch-lightning_version": "2", "state_dict": {"net.x": torch.ones(1)}}), "Lightning"),
    "resnet.pt": (named("conv1.weight", "fc.weight"), "none of the importers"),
}  # fmt: skip


def sound(folder: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """One small file of each format that is read, and how to import it."""
    save_model(folder / "m.pt", build(default_config((2,), network={"width": 16, "blocks": 1})))
    save_model(folder / "m.safetensors", build(default_config((2,), network={"width": 16, "blocks": 1})))
    cdl = test_cdl.lightning(folder / "cdl.ckpt", test_cdl.weights("residual"), test_cdl.DDPM)
    score = test_score_sde.checkpoint(folder / "score.pth", test_score_sde.weights("ncsnpp"))
    edm2 = test_edm2.write(folder / "edm2.pkl", "none")
    edm = edm_files.dumps({"ema": edm_files.network(edm_files.tiny_layout())})
    dit = saved(test_dit.weights())
    return {
        "m.pt": ((folder / "m.pt").read_bytes(), {}),
        "m.safetensors": ((folder / "m.safetensors").read_bytes(), {}),
        "cdl.ckpt": (cdl.read_bytes(), {}),
        "score.pth": (score.read_bytes(), {"shape": (3, 8, 8)}),
        "edm.pkl": (edm, {}),
        "edm2.pkl": (edm2.read_bytes(), {}),
        "dit.pt": (dit, {"predicts": "eps", "num_heads": 4}),
    }


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut at a tenth": lambda content: content[: len(content) // 10],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut at its end": lambda content: content[:-1],
    "begun late": lambda content: content[7:],
    "overwritten": lambda content: content[:40] + bytes(400) + content[440:],
}


def test_a_hundred_files(tmp_path: Path) -> None:
    source = tmp_path / "sound"
    source.mkdir()
    whole = sound(source)
    for name, (content, options) in whole.items():
        (tmp_path / name).write_bytes(content)
        import_model(tmp_path / name, **options)  # nothing is refused for another reason
    files = {name: (content, {}, words) for name, (content, words) in FOREIGN.items()}
    for name, (content, options) in whole.items():
        for number, change in enumerate(DAMAGES.values()):
            files[f"{number}-{name}"] = change(content), options, ""
    content = whole["m.safetensors"][0]
    files["bit.safetensors"] = content[:-1] + bytes([content[-1] ^ 1]), {}, "digest"
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    files["huge.safetensors"] = struct.pack("<Q", len(header)) + header, {}, ""
    files["long.safetensors"] = struct.pack("<Q", 2**62) + b"{}", {}, ""
    assert len(files) >= 100
    wrong = []
    for name, (content, options, words) in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        try:
            import_model(path, **options)
            said = "nothing"
        except NcdeployError as e:
            said = str(e)
        except Exception as e:  # what must never reach anybody
            said = f"{type(e).__name__}\n"
        if "\n" in said or str(path) not in said or not re.search(re.escape(words), said) or len(said) > 700:
            wrong.append(f"{name}: {said!r}, expected {words!r}")
    assert not wrong, "\n".join(wrong)
