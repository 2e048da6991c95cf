"""Files of other projects and tools that no importer reads, by name: what somebody has, and what may help.

Nothing is executed, and no more is read than the beginning of a file and the names in it.
"""

import os
import zipfile
from pathlib import Path

from ncdeploy.denoisers.safetensors_file import is_safetensors
from ncdeploy.denoisers.torchfile import HEAD, pickle_head
from ncdeploy.files import user_path

LEGACY = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number of PyTorch files that are no archives
OWN_MODULE = (
    "import it by a function that makes its network: ncdeploy import package.module:function --weights FILE "
    "--predicts eps --noise step --schedule linear --shape 3,32,32"
)
LATENT = (
    "a latent diffusion checkpoint in one file (Stable Diffusion and the like): its network makes latents, which an "
    "autoencoder beside it decodes; only networks that make pictures themselves can be imported"
)

MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GGUF", "a GGUF file, weights in the formats of llama.cpp; import the model that it was made from"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes (.h5); TensorFlow's models are not supported"),
    (4, b"TFL3", "a TensorFlow Lite model; TensorFlow's models are not supported"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself; fetch that with: git lfs pull"),
    (0, b"ftrt", "an engine of TensorRT, which runs as it is: ncdeploy sample -e"),
    (0, b"vtrt", "an engine of TensorRT, which runs as it is: ncdeploy sample -e"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (0, b"Rar!", "a RAR archive; unpack it first"),
    (0, b"BZh", "compressed with bzip2; unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4; unpack it first"),
    (0, b"lmgg", "a GGML file, weights in the old formats of llama.cpp; import the model that it was made from"),
    (0, b"7767517", "a network of ncnn; import the model that it was made from"),
    (0, b"\x12\x01\0\0\0\0\0\0", "a parameter file of MXNet, which is not supported"),
    (0, b"MATLAB", "a MATLAB file, no model"),
    (0, b"PAR1", "a Parquet table, no model"),
    (0, b"SQLite format 3", "a database, no model"),
    (0, b"%PDF", "a document, no model"),
    (0, b"\x7fELF", "a program or library, no model"),
    (0, b"GIF8", "a picture, no model"),
    (0, b"RIFF", "a picture, sound or film, no model"),
    (4, b"ftyp", "a picture or film, no model"),
    (0, b"\x93NUMPY", "a NumPy array, no model"),
    (0, b"\x89PNG", "a picture, no model"),
    (0, b"\xff\xd8\xff", "a picture, no model"),
    (0, b"<!", "a web page, not the file that it offers; download that itself"),
    (0, b"<html", "a web page, not the file that it offers; download that itself"),
    (0, b"<?xml", "an XML file, such as OpenVINO keeps its models in; import what that was made from"),
)  # fmt: skip
ARCHIVES: tuple[tuple[str, str], ...] = (
    ("constants.pkl", f"a TorchScript program, which holds code; {OWN_MODULE}"),
    ("model.weights.h5", "a Keras model; TensorFlow's models are not supported"),
    ("archive_format", f"an exported program of PyTorch (.pt2), which holds a graph and no network; {OWN_MODULE}"),
    (".npy", "an archive of NumPy arrays, no model"),
)  # fmt: skip
SUFFIXES: dict[str, str] = {
    ".onnx": "an ONNX graph, which runs as it is: ncdeploy sample -e",
    ".ncplan": "a plan of noise levels for sampling, no model",
    ".pb": "a graph of TensorFlow, which is not supported",
    ".msgpack": "a model of JAX (Flax), which is not supported",
    ".mlmodel": "a model of Core ML; import the model that it was made from",
    ".caffemodel": "a model of Caffe, which is not supported",
    ".pdparams": "weights of PaddlePaddle, which is not supported",
    ".pdmodel": "a model of PaddlePaddle, which is not supported",
    ".py": "Python source; for a function in it write package.module:function",
    ".ipynb": "a notebook, no model",
}
# Of the names of weights: all must be there. The first that fits counts.
NAMES: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"first_stage_model.",), LATENT),
    ((b"cond_stage_model.",), LATENT),
    ((b"conditioner.embedders.",), LATENT),
    ((b"transformer_blocks.", b"input_blocks."), LATENT),
    ((b"joint_blocks.", b"x_embedder"), "the transformer of Stable Diffusion 3, which makes latents from text"),
    ((b"double_blocks.", b"single_blocks."), "the transformer of Flux, which makes latents from text"),
    ((b"adaLN_modulation", b"x_embedder"), "a transformer of the DiT and SiT kind, which makes latents"),
    ((b"scale_shift_table", b"transformer_blocks."), "a transformer of diffusers, such as PixArt, which makes latents"),
    ((b"lora_",), "a LoRA, which changes another model and is none itself"),
    ((b"down_blocks.", b"time_embedding.linear_1"), "the weights of a diffusers network; give the folder with its "
     "config.json"),
    ((b"encoder.down_blocks.", b"decoder.up_blocks."), "an autoencoder of diffusers, no denoiser"),
    ((b"encoder.down.0", b"decoder.up.0"), "an autoencoder of latent diffusion, no denoiser"),
    ((b"downs.0.0.", b"init_conv."), f"a network of denoising-diffusion-pytorch; {OWN_MODULE}"),
    ((b"noise_pred_net.",), f"a diffusion policy for robots; {OWN_MODULE}"),
    ((b"pytorch-lightning_version",), f"a checkpoint of Lightning; {OWN_MODULE}"),
    ((b"input_blocks.", b"time_embed."), "a noisy classifier of guided-diffusion, no denoiser"),
)  # fmt: skip
FOLDERS: tuple[tuple[str, str], ...] = (
    ("saved_model.pb", "a SavedModel of TensorFlow, which is not supported"),
    ("*.ckpt.index", "a checkpoint of TensorFlow, which is not supported"),
    ("model.ckpt-*", "a checkpoint of TensorFlow, which is not supported"),
    ("_METADATA", "a checkpoint of JAX (Orbax), which is not supported"),
    ("flax_model.msgpack", "a model of JAX (Flax), which is not supported"),
    ("tokenizer.json", "a language model, no denoiser"),
    ("manifest.json", "a bundle, which runs as it is: ncdeploy sample -e"),
    ("*.safetensors", "a folder of weights without config.json; diffusers' models have one beside them"),
)


def name_of(path: str | os.PathLike[str]) -> str | None:
    """What the file or folder is, as the rest of "PATH: is ...", if it is known and no importer reads it."""
    source = user_path(path)
    try:
        if source.is_dir():
            return next((what for pattern, what in FOLDERS if any(source.glob(pattern))), None)
        if not source.is_file():
            return None
        with source.open("rb") as f:
            start = f.read(512)
        if not start:
            return "empty"
        for offset, magic, what in MAGIC:
            if start[offset:].startswith(magic):
                return what
        if source.suffix in SUFFIXES:
            return SUFFIXES[source.suffix]
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                inside = archive.namelist()
            for ending, what in ARCHIVES:
                if any(name.endswith(ending) for name in inside):
                    return what
            if not any(name.endswith("data.pkl") for name in inside):
                return "a zip archive of other things than weights; unpack it first"
        head = names_in(source)
        found = next((what for marks, what in NAMES if all(mark in head for mark in marks)), None)
        if found is None and start.startswith(b"\x80") and LEGACY not in start and not is_safetensors(source):
            return "a Python pickle of something else than weights, which can run code, so it was not opened"
        if found is None and head:
            return f"a file of weights that none of the importers knows by their names; {OWN_MODULE}"
    except Exception:  # a damaged archive fails in a dozen ways
        return None
    return found


def is_latent(head: bytes) -> bool:
    """Whether these are the names of a checkpoint whose network makes latents."""
    return any(what is LATENT and all(mark in head for mark in marks) for marks, what in NAMES)


def names_in(file: Path) -> bytes:
    """The bytes of a PyTorch or safetensors file in which its names stand; b"" for another file or a damaged one."""
    try:
        if file.is_file() and is_safetensors(file):
            with file.open("rb") as f:
                return f.read(8 + min(HEAD, int.from_bytes(f.read(8), "little")))
    except OSError:
        return b""
    head = pickle_head(file)
    return head if head.startswith(b"\x80") else b""
