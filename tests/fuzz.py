"""Every reader of files, a small sound file of each, and what a reader of any other bytes may do.

As a script, many inputs, each in its time and memory: python tests/fuzz.py 10000 [reader ...]
and single bits turned over in files of weights: python tests/fuzz.py flips 400 [reader ...]
"""

import json
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mutations import mutate
from ncdeploy.errors import NcdeployError

SECONDS, MEMORY, LONGEST = 20, 4 << 30, 4000  # of an input; bytes; characters of a message
ODD = [
    None, True, -1, 0, 2**53, 10**9, 1e308, -0.0, 0.5, "", "../x", "\u202e\x1b[31m", "x" * 3000, [], {}, [[]], {"a": 1},
    [1.5] * 300, "NaN",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Target:
    """make(folder) writes a sound file, the one that is changed; read(file) reads it to the end."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def model() -> Any:
    from ncdeploy.denoisers import build, default_config

    return build(default_config((3,), network={"width": 8, "blocks": 1}))


def make_model(folder: Path) -> Path:
    from ncdeploy.denoisers import save_model

    save_model(folder / "model.pt", model(), record={"loss": [1.5]})
    return folder / "model.pt"


def make_twin(folder: Path) -> Path:
    from ncdeploy.denoisers import save_model

    save_model(folder / "model.safetensors", model(), record={"loss": [1.5]})
    return folder / "model.safetensors"


def make_run(folder: Path) -> Path:
    from ncdeploy.training import TrainConfig, load_data, start
    from ncdeploy.training.saving import save_training

    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(20, 2)))
    config = TrainConfig(steps=4, batch=4, device="cpu")
    training = start(load_data(str(folder / "data.npy")), config, network={"width": 8, "blocks": 1})
    next(training.run())
    save_training(folder / "run.pt", training)
    return folder / "run.pt"


def read_run(file: Path) -> Any:
    from ncdeploy.training.saving import resume_training

    training = resume_training(file, data=str(file.parent / "data.npy"))
    next(training.run())
    return training.record()


def make_onnx(folder: Path) -> Path:
    from tiny_models import POINTS, write_mixture

    return write_mixture(folder / "model.onnx", POINTS, np.random.default_rng(0).normal(size=(2, 2)))


def read_engine(file: Path) -> Any:
    """As far as what the file says of itself; a graph that runs for ever is for its user to stop."""
    from ncdeploy.backends import open_engine
    from ncdeploy.formats.describe import check_graph, describe
    from ncdeploy.formats.filetype import detect
    from ncdeploy.formats.onnxfile import read_onnx
    from ncdeploy.inspection import inspect_file

    inspect_file(file)
    if detect(file) == "onnx":
        found = read_onnx(file)
        check_graph(file, found, describe(file, found))
    return open_engine(file).info


def make_plan_file(folder: Path) -> Path:
    from ncdeploy import make_plan
    from ncdeploy.formats.planfile import encode

    (folder / "a.ncplan").write_bytes(encode(make_plan("unipc", 4)))
    return folder / "a.ncplan"


def read_plan_file(file: Path) -> Any:
    from ncdeploy.files import read_file
    from ncdeploy.formats.planfile import MAX_SIZE, decode

    return decode(read_file(file, MAX_SIZE, "expected a plan"), str(file))


def make_bundle_of(folder: Path) -> Path:
    from ncdeploy import make_plan
    from ncdeploy.bundle.writer import make_bundle

    make_bundle(make_onnx(folder), folder / "bundle", plans=[make_plan("unipc", 4)], verify=False)
    return folder / "bundle" / "manifest.json"


def read_bundle(file: Path) -> Any:
    """With digests that fit, as whoever can write every file makes them."""
    from bundle_files import reseal
    from ncdeploy import open_bundle

    if file.is_file():
        reseal(file.parent)
    return open_bundle(file.parent)


def make_sidecar(folder: Path) -> Path:
    from ncdeploy.formats.profiles import Profile
    from ncdeploy.formats.sidecar import BuildOptions, Sidecar, sidecar_path, write_sidecar
    from tiny_models import POINTS

    plan = folder / "model.plan"
    plan.write_bytes(b"ftrt")
    sidecar = Sidecar(
        tensorrt="11.0", compute_capability=(9, 0), device="a GPU", driver="13.0", platform="linux-x86_64",
        plan_sha256="0", plan_bytes=4, onnx="model.onnx", onnx_sha256="0", model=POINTS,
        profiles=(Profile(least=1, best=2, most=3),), options=BuildOptions(), layers={"fp32": 3}, device_memory=1,
        command="ncdeploy build", latency=((1, 0.5),), parity={"summary": "equal"},
    )  # fmt: skip
    write_sidecar(plan, sidecar)
    return sidecar_path(plan)


def read_sidecar_of(file: Path) -> Any:
    from ncdeploy.inspection import inspect_file

    return inspect_file(file.with_suffix(""))


def make_diffusers(folder: Path) -> Path:
    from diffusers import DDPMScheduler, UNet2DModel

    UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, attention_head_dim=4,
    ).save_pretrained(folder / "unet")  # fmt: skip
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder / "unet" / "config.json"


def read_diffusers(file: Path) -> Any:
    from ncdeploy.importers import import_model

    return import_model(file.parents[1])


def make_scheduler(folder: Path) -> Path:
    return make_diffusers(folder).parents[1] / "scheduler" / "scheduler_config.json"


def make_guided(folder: Path) -> Path:
    import torch

    from guided_reference import state_dict

    torch.save(state_dict(), folder / "guided.pt")
    return folder / "guided.pt"


def read_guided(file: Path) -> Any:
    from ncdeploy.importers import import_model

    return import_model(file, format="guided-diffusion", image_size=8, num_heads=2)


def make_npz(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez_compressed(folder / "a.npz", samples=rng.normal(size=(20, 2)), labels=np.arange(20) % 2)
    return folder / "a.npz"


def make_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(20, 2)))
    return folder / "a.npy"


def make_csv(folder: Path) -> Path:
    np.savetxt(folder / "a.csv", np.random.default_rng(0).normal(size=(20, 2)), delimiter=",", header="a,b")
    return folder / "a.csv"


def read_data(file: Path) -> Any:
    from ncdeploy.inspection import inspect_file
    from ncdeploy.training import load_data

    if file.suffix == ".npz":
        inspect_file(file)
    return load_data(str(file))


def make_curve(folder: Path) -> Path:
    from ncdeploy.auto.latency import Latency

    (folder / "curve.json").write_text(Latency(rows=(1, 8), seconds=(0.1, 0.2), asked=8).to_json())
    return folder / "curve.json"


def read_curve(file: Path) -> Any:
    from ncdeploy.auto.latency import Latency
    from ncdeploy.files import read_file

    try:
        text = read_file(file, 1 << 16, "expected a curve").decode()
    except UnicodeDecodeError:  # measured anew, as what follows
        return None
    return Latency.from_json(text)(3)


TARGETS = {
    "model.pt": Target(make=make_model, read=read_engine),
    "safetensors": Target(make=make_twin, read=read_engine),
    "checkpoint": Target(make=make_run, read=read_run),
    "onnx": Target(make=make_onnx, read=read_engine),
    "plan": Target(make=make_plan_file, read=read_plan_file),
    "bundle": Target(make=make_bundle_of, read=read_bundle),
    "sidecar": Target(make=make_sidecar, read=read_sidecar_of),
    "diffusers": Target(make=make_diffusers, read=read_diffusers),
    "scheduler": Target(make=make_scheduler, read=read_diffusers),
    "guided": Target(make=make_guided, read=read_guided),
    "npz": Target(make=make_npz, read=read_data),
    "npy": Target(make=make_npy, read=read_data),
    "csv": Target(make=make_csv, read=read_data),
    "curve": Target(make=make_curve, read=read_curve),
}


def inputs(file: Path, rng: np.random.Generator) -> Iterator[bytes]:
    """Other contents of a file, for ever: half of them bytes that changed, half a field with an odd value."""
    content = file.read_bytes()
    while True:
        yield mutate(content, rng)
        changed = changed_field(file.name, content, rng)
        if changed is not None:
            yield changed


def changed_field(name: str, content: bytes, rng: np.random.Generator) -> bytes | None:
    """The content with another value of a field, or None for formats that have no fields; digests do not hide it."""
    if name.endswith(".json"):
        return json.dumps(changed_value(json.loads(content), rng)).encode()
    if name.endswith(".safetensors"):
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        if rng.integers(2):
            header = changed_value(header, rng)
        else:
            about = json.loads(header["__metadata__"]["ncdeploy"])
            del about["digest"]
            about = with_changed_text(about, rng)
            header["__metadata__"]["ncdeploy"] = json.dumps(about)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]
    if name.endswith(".pt"):
        import io

        import torch

        payload = torch.load(io.BytesIO(content), weights_only=True)
        payload.pop("digest", None)
        buffer = io.BytesIO()
        torch.save(with_changed_text(payload, rng), buffer)
        return buffer.getvalue()
    if name.endswith(".onnx"):
        import onnx

        graph = onnx.load_from_string(content)
        for entry in graph.metadata_props:
            entry.value = json.dumps(changed_value(json.loads(entry.value), rng))
        return graph.SerializeToString()
    return None


def with_changed_text(payload: Any, rng: np.random.Generator) -> Any:
    """The payload with another value somewhere, or one inside the JSON that it holds as text."""
    if rng.integers(2) and isinstance(payload, dict) and "info" in payload:
        return {**payload, "info": json.dumps(changed_value(json.loads(payload["info"]), rng))}
    return changed_value(payload, rng)


def changed_value(value: Any, rng: np.random.Generator) -> Any:
    """A tree of which one value, anywhere, is another or gone."""
    import copy

    value = copy.deepcopy(value)
    places = list(_places(value))
    holder, key = places[int(rng.integers(len(places)))]
    kind = int(rng.integers(6))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["new"] = ODD[int(rng.integers(len(ODD)))]
    elif kind == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] *= [-1, 2, 10**6, 0.5][int(rng.integers(4))]
    else:
        holder[key] = ODD[int(rng.integers(len(ODD)))]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def try_input(target: Target, file: Path, content: bytes) -> str:
    """ "read" or "refused"; AssertionError with what went wrong for anything else a reader does."""
    file.write_bytes(content)
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings(action="error"):
            target.read(file)
    except NcdeployError as e:
        said = str(e)
        assert "\n" not in said, f"several lines: {said[:300]}"
        assert len(said) <= LONGEST, f"{len(said)} characters: {said[:300]}"
        return "refused"
    finally:
        assert time.perf_counter() - begin < SECONDS, "takes too long"
    return "read"


@contextmanager
def limits(seconds: int) -> Iterator[None]:
    """An alarm after so many seconds."""

    def ring(*_: Any) -> None:
        raise TimeoutError("takes too long")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(name: str, count: int) -> Counter[str]:
    """Read so many inputs; what went wrong is counted under its message."""
    target, found = TARGETS[name], Counter[str]()
    rng = np.random.default_rng(count)
    with tempfile.TemporaryDirectory() as folder:
        file = target.make(Path(folder))
        content = file.read_bytes()
        assert try_input(target, file, content) == "read"
        for _, changed in zip(range(count), inputs(file, rng), strict=False):
            try:
                with limits(SECONDS):
                    found[try_input(target, file, changed)] += 1
            except BaseException as e:  # a fault of the reader, to be told
                told = f"{type(e).__name__}: {str(e)[:150]}"
                if not found[told]:
                    shutil.copyfile(file, Path(tempfile.gettempdir()) / f"fault-{name}-{len(found)}")
                found[told] += 1
                if isinstance(e, KeyboardInterrupt):
                    raise
            file.write_bytes(content)
    return found


def read_numbers(file: Path) -> Any:
    from ncdeploy.denoisers import load_model

    return numbers(load_model(file))


def read_run_numbers(file: Path) -> Any:
    from ncdeploy.training.saving import resume_training

    training = resume_training(file, data=str(file.parent / "data.npy"))
    moments = {
        f"{i} {name}": value
        for i, entry in training.optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    record = {**training.record(), "losses": None}
    return record, numbers(training.denoiser), numbers(training.ema.denoiser), numbers(moments)


def numbers(found: Any) -> Any:
    """A digest of tensors, and what a model says of itself."""
    from ncdeploy.denoisers import weights_digest

    if isinstance(found, dict):
        return weights_digest(found)
    return weights_digest(found.state_dict()), found.config, found.info


FLIPPED = {
    "model.pt": Target(make=make_model, read=read_numbers),
    "safetensors": Target(make=make_twin, read=read_numbers),
    "checkpoint": Target(make=make_run, read=read_run_numbers),
    "guided": Target(make=make_guided, read=lambda file: numbers(read_guided(file))),
}


def flips(name: str, count: int) -> Counter[str]:
    """Of so many files with one bit turned over: which are refused, read as the same, or read as something else."""
    target, found = FLIPPED[name], Counter[str]()
    rng = np.random.default_rng(count)
    with tempfile.TemporaryDirectory() as folder:
        file = target.make(Path(folder))
        content = file.read_bytes()
        sound = target.read(file)
        for _ in range(count):
            changed = bytearray(content)
            changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
            file.write_bytes(changed)
            try:
                found["the same" if target.read(file) == sound else "something else"] += 1
            except NcdeployError:
                found["refused"] += 1
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    many, known, words = (flips, FLIPPED, sys.argv[2:]) if sys.argv[1] == "flips" else (run, TARGETS, sys.argv[1:])
    for chosen in words[1:] or known:
        start = time.perf_counter()
        outcome = many(chosen, int(words[0]))
        sys.stdout.write(f"{chosen}: {dict(outcome)} in {time.perf_counter() - start:.0f} s\n")
        sys.stdout.flush()
