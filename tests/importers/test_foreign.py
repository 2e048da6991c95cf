"""Formats that no importer reads are named, in one line, and so are pieces of those that one reads."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ncdeploy.errors import FileError
from ncdeploy.importers import FORMATS, detect_format, import_model

NAMES = {
    "Stable Diffusion": (["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.middle_block.0.x",
                          "model.diffusion_model.output_blocks.0.0.x", "model.diffusion_model.time_embed.0.weight",
                          "cond_stage_model.transformer.x", "first_stage_model.decoder.x"], "latent diffusion"),
    "SDXL": (["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.x"], "latent diffusion"),
    "SD 3": (["model.diffusion_model.joint_blocks.0.x", "model.diffusion_model.x_embedder.x"], "Stable Diffusion 3"),
    "Flux": (["double_blocks.0.img_attn.x", "single_blocks.0.x", "img_in.weight"], "Flux"),
    "DiT": (["x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight", "final_layer.x"], "DiT"),
    "PixArt": (["transformer_blocks.0.scale_shift_table", "pos_embed.x"], "PixArt"),
    "LoRA": (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "LoRA"),
    "UNet2DModel": (["down_blocks.0.resnets.0.x", "time_embedding.linear_1.weight"], "give the folder with its config"),
    "VAE": (["encoder.down_blocks.0.x", "decoder.up_blocks.0.x"], "autoencoder of diffusers"),
    "lucidrains": (["init_conv.weight", "downs.0.0.block1.x"], "denoising-diffusion-pytorch"),
    "policy": (["noise_pred_net.down_modules.0.x"], "diffusion policy"),
    "classifier": (["input_blocks.0.0.weight", "time_embed.0.weight", "out.0.x"], "noisy classifier"),
    "anything": (["layer.weight", "layer.bias"], "none of the importers knows"),
}  # fmt: skip


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_told_by_their_names(name: str, safe: bool, tmp_path: Path) -> None:
    names, what = NAMES[name]
    tensors = {name: torch.ones(1) for name in names}
    path = tmp_path / ("m.safetensors" if safe else "m.pt")
    if safe:
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 3}, path)
    refused(path, what)
    if not safe:
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
        refused(path, what)


def refused(path: Path, what: str) -> None:
    for attempt in (detect_format, import_model):
        with pytest.raises(FileError, match=what) as caught:
            attempt(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{path}: is ")


HEADS: dict[str, tuple[bytes, str]] = {
    "m.gguf": (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
    "m.ckpt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS"),
    "m.plan": (b"ftrt" + bytes(64), "engine of TensorRT"),
    "m.pt.gz": (b"\x1f\x8b" + bytes(64), "gzip"),
    "m.tar": (bytes(257) + b"ustar" + bytes(300), "tar archive"),
    "m.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(64), "7z archive"),
    "m.npy": (b"\x93NUMPY" + bytes(64), "NumPy array"),
    "m.png": (b"\x89PNG\r\n\x1a\n", "picture"),
    "m.jpg": (b"\xff\xd8\xff\xe0", "picture"),
    "m.bin": (b"<!DOCTYPE html><html>", "web page"),
    "m.xml": (b"<?xml version='1.0'?><net>", "OpenVINO"),
    "m.onnx": (b"\x08\x0a\x12\x07pytorch", "ONNX graph"),
    "m.pb": (b"\x0a\x10", "graph of TensorFlow"),
    "m.msgpack": (b"\x81\xa1", "JAX"),
    "m.pkl": (pickle.dumps({"weights": [1.0]}), "Python pickle of something else"),
    "empty.pt": (b"", "empty"),
}


@pytest.mark.parametrize("name", HEADS)
def test_files_are_told_by_how_they_begin(name: str, tmp_path: Path) -> None:
    content, what = HEADS[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, what)


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (["m/constants.pkl", "m/code/__torch__.py", "m/data.pkl"], "TorchScript"),
        (["config.json", "model.weights.h5"], "Keras"),
        (["m/archive_format", "m/models/model.json"], "exported program"),
        (["a.npy", "b.npy"], "archive of NumPy arrays"),
    ],
)
def test_archives_are_told_by_what_is_in_them(members: list[str], what: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for member in members:
            archive.writestr(member, b"\x80\x02}.")
    refused(tmp_path / "m.pt", what)


@pytest.mark.parametrize(
    ("member", "what"),
    [
        ("saved_model.pb", "SavedModel"),
        ("model.ckpt-100.index", "checkpoint of TensorFlow"),
        ("_METADATA", "Orbax"),
        ("flax_model.msgpack", "Flax"),
        ("tokenizer.json", "language model"),
        ("manifest.json", "bundle"),
        ("diffusion_pytorch_model.safetensors", "without config.json"),
    ],
)
def test_folders_are_told_by_what_is_in_them(member: str, what: str, tmp_path: Path) -> None:
    (tmp_path / member).write_text("{}")
    refused(tmp_path, what)


def test_a_torchscript_file_and_a_lightning_checkpoint_as_torch_writes_them(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(Net(), torch.ones(1)), tmp_path / "script.pt")
    refused(tmp_path / "script.pt", "TorchScript")
    lightning = {"pytorch-lightning_version": "2.4", "state_dict": {"net.x": torch.ones(1)}, "callbacks": {}}
    torch.save(lightning, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "Lightning")


def test_what_cannot_be_told_is_still_one_line(tmp_path: Path) -> None:
    for name, content in {"a.txt": b"hello", "b.json": json.dumps({"a": 1}).encode(), "c.zip": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=", ".join(FORMATS)) as caught:
            detect_format(tmp_path / name)
        assert "\n" not in str(caught.value)
