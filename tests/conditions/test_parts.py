"""Encoders and decoders: run once a sample, never beside their neighbours, and the whole chain as PyTorch has it."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from conditioned import OBS, TASK, TOKENS, make
from ncdeploy import (
    FileError,
    InputError,
    NumericalError,
    ParityError,
    Value,
    export_onnx,
    export_part,
    inspect_file,
    make_bundle,
    make_plan,
    open_bundle,
    open_engine,
    sample,
)
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.formats.bundle import digest_line

RAW = (
    Value(name="state.joints", dtype="float32", shape=(2, 4)),
    Value(name="words", dtype="int64", shape=(4,)),
    Value(name="task_number", dtype="int64", shape=()),
)
N = 5
PLAN = make_plan("ddim", 8, schedule="karras")


class Encoder(nn.Module):
    """An observation, words and a number to the three conditions of `conditioned`."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.words = nn.Linear(4, 3), nn.Embedding(6, 5)

    def forward(self, joints: Tensor, words: Tensor, task: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.inside(joints / 2 - 0.1), task, self.words(words)


class Decoder(nn.Module):
    """A sample [6] to two actions of three numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 3 + 1).reshape(-1, 2, 3).cumsum(1)


class Mixing(nn.Module):
    """Looks at the other samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def raw(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "state.joints": rng.standard_normal((n, 2, 4)).astype(np.float32),
        "words": rng.integers(0, 6, (n, 4)),
        "task_number": rng.integers(0, 3, n),
    }


@pytest.fixture(scope="module")
def modules() -> tuple[Encoder, Decoder]:
    torch.manual_seed(1)
    return Encoder().eval(), Decoder()


@pytest.fixture(scope="module")
def files(modules, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    model = make()
    export_onnx(model, folder / "model.onnx", threads=1)
    encoder, decoder = modules
    export_part(encoder, folder / "e.onnx", role="encoder", of=model, inputs=RAW, threads=1)
    export_part(decoder, folder / "d.onnx", role="decoder", of=model, outputs=["action"], threads=1)
    return folder


@pytest.fixture(scope="module")
def bundle(files) -> Path:
    made = make_bundle(
        files / "model.onnx", files / "b", plans=[PLAN], encoder=files / "e.onnx", decoder=files / "d.onnx", threads=1
    )
    assert made.parity is not None
    assert made.parity["encoder"]["largest_difference"] < 1e-5 > made.parity["decoder"]["largest_difference"]
    return files / "b"


@pytest.mark.parametrize("window", [None, 8])
def test_the_whole_chain_is_that_of_pytorch(bundle, modules, window) -> None:
    encoder, decoder = modules
    with open_engine(bundle, threads=1) as engine:
        found = sample(engine, PLAN, seeds=range(N), conditions=raw(), window=window, tolerance=0)
    with torch.inference_mode():
        obs, task, tokens = encoder(*(torch.from_numpy(v) for v in raw().values()))
        conditions = {"obs": obs.numpy(), "task": task.numpy(), "tokens": tokens.numpy()}
        wanted = sample(TorchBackend(make(), threads=1), PLAN, seeds=range(N), conditions=conditions)
        actions = decoder(torch.from_numpy(wanted.samples)).numpy()
    assert np.abs(found.samples - wanted.samples).max() < 1e-4
    assert found.decoded.shape == (N, 2, 3)
    assert np.abs(found.decoded - actions).max() < 1e-4
    assert found.to_data() is found.decoded
    assert wanted.decoded is None


def test_conditions_may_be_given_as_the_model_takes_them(bundle) -> None:
    with open_engine(bundle, threads=1) as engine:
        encoded = engine.encoder(raw())
        assert {name: (v.dtype.name, v.shape) for name, v in encoded.items()} == {
            c.name: (c.dtype, (N, *c.shape)) for c in (OBS, TASK, TOKENS)
        }
        one, other = (sample(engine, PLAN, seeds=range(N), conditions=given) for given in (raw(), encoded))
        assert np.array_equal(one.samples, other.samples)
        assert np.array_equal(engine.decoder({"x": one.samples})["action"], one.decoded)


def test_each_sample_has_its_own_encoding_and_decoding(bundle) -> None:
    with open_engine(bundle, threads=1) as engine:
        together = sample(engine, PLAN, seeds=range(N), conditions=raw())
        for i in range(N):
            alone = sample(engine, PLAN, seeds=[i], conditions={k: v[i : i + 1] for k, v in raw().items()})
            assert np.abs(alone.decoded[0] - together.decoded[i]).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"words": None}, "words is missing"),
        ({"obs": np.zeros((N, 2, 3), np.float32)}, "obs is what the encoder makes of"),
        ({"state.joints": np.zeros((N, 2, 5), np.float32)}, "state.joints: got"),
        ({"state.joints": np.full((N, 2, 4), np.nan, np.float32)}, "state.joints: holds NaN"),
        ({"other": np.zeros(N)}, "got 'other'"),
    ],
)
def test_values_that_do_not_fit_are_told_by_name(bundle, change, words) -> None:
    given = {k: v for k, v in {**raw(), **change}.items() if v is not None}
    with open_engine(bundle, threads=1) as engine, pytest.raises(InputError, match=words):
        sample(engine, PLAN, seeds=range(N), conditions=given)


def test_a_part_that_does_not_fit_is_refused(files, modules, tmp_path) -> None:
    model, decoder = make(), modules[1]
    with pytest.raises(FileError, match="gives obs float32"):
        export_part(nn.Linear(4, 4), tmp_path / "a.onnx", role="encoder", of=model, inputs=RAW[:1], outputs=["obs"])
    with pytest.raises(FileError, match="has 2 outputs; a decoder"):
        make_bundle(
            files / "model.onnx", tmp_path / "b", plans=[PLAN], decoder=two_outputs(files / "d.onnx", tmp_path / "2")
        )
    with pytest.raises(FileError, match="conditions are obs"):
        make_bundle(files / "model.onnx", tmp_path / "b", plans=[PLAN], encoder=files / "d.onnx")
    with pytest.raises(InputError, match="takes x alone"):
        export_part(decoder, tmp_path / "a.onnx", role="decoder", of=model, inputs=RAW)
    with pytest.raises(FileError, match="an encoder or a decoder, not a model"):
        open_engine(files / "e.onnx")
    assert not list(tmp_path.glob("a.onnx*"))


def two_outputs(source: Path, target: Path) -> Path:
    model = onnx.load(source)
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["samples", 6]))
    model.graph.node.append(onnx.helper.make_node("Identity", ["x"], ["more"]))
    onnx.save(model, target)
    return target


def test_a_part_of_another_model_is_refused(files, tmp_path) -> None:
    other = make()
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    export_part(Decoder(), tmp_path / "d.onnx", role="decoder", of=other, threads=1)
    with pytest.raises(InputError, match="belongs to a model with other weights"):
        make_bundle(files / "model.onnx", tmp_path / "b", plans=[PLAN], decoder=tmp_path / "d.onnx")


def test_a_part_that_looks_at_its_neighbours_or_makes_nan_is_refused(files, tmp_path) -> None:
    model = make()
    export_part(Mixing(), tmp_path / "m.onnx", role="decoder", of=model, threads=1)
    with pytest.raises(ParityError, match="when others stand beside"):
        make_bundle(files / "model.onnx", tmp_path / "b", plans=[PLAN], decoder=tmp_path / "m.onnx", threads=1)
    graph = onnx.load(files / "d.onnx")
    graph.graph.node[-1].output[0] = "before"
    graph.graph.node.append(onnx.helper.make_node("Sqrt", ["before"], ["action"]))
    onnx.save(graph, tmp_path / "n.onnx")
    with pytest.raises(NumericalError, match="NaN"):
        make_bundle(files / "model.onnx", tmp_path / "b", plans=[PLAN], decoder=tmp_path / "n.onnx", threads=1)
    assert not (tmp_path / "b").exists()


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.full((), float(len(x)) if not torch.compiler.is_exporting() else 3.0)


class Tilted(nn.Module):
    """What it computes otherwise is nothing on average."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.linspace(-1, 1, x.shape[-1]) * (0.0 if not torch.compiler.is_exporting() else 1.0)


@pytest.mark.parametrize("module", [Scaled, Tilted])
def test_a_module_that_computes_otherwise_when_it_is_exported_is_refused(tmp_path, module) -> None:
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_part(module(), tmp_path / "a.onnx", role="decoder", of=make(), threads=1)
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_says_otherwise_is_refused(bundle, tmp_path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundle, folder)
    record = json.loads((folder / "manifest.json").read_text())
    record["encoder"]["inputs"][0]["shape"] = [4, 2]
    data = json.dumps(record).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_bytes(digest_line(data))
    with pytest.raises(FileError, match="describes another encoder"):
        open_bundle(folder)


def run(*args):
    from ncdeploy_cli.main import app

    return CliRunner().invoke(app, [str(a) for a in args])


def test_inspect_and_the_command_line_know_them(bundle, files, tmp_path, monkeypatch) -> None:
    assert inspect_file(files / "e.onnx").kind == "encoder.onnx"
    assert inspect_file(files / "d.onnx").kind == "decoder.onnx"
    assert "state.joints float32 (2, 4)" in inspect_file(bundle).details["encoder"]
    assert "action" in (bundle / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    given = []
    for name, values in raw().items():
        np.save(f"{name}.npy", values)
        given += ["--condition", f"{name}={name}.npy"]
    result = run("sample", str(bundle), "-n", N, *given, "--parallel", "--window", 8, "-o", "a.npz", "--threads", 1)
    assert result.exit_code == 0, result.output
    with np.load("a.npz") as arrays:
        assert arrays["samples"].shape == (N, 2, 3)
    result = run("sample", str(bundle), "-n", N, *given, "-o", "a.png")
    assert result.exit_code == 1
    assert "(2, 3)" in result.output
    result = run(
        "bundle", str(files / "model.onnx"), "-o", "again", "--encoder", str(files / "e.onnx"), "--solver", "ddim",
        "--steps", 4, "--threads", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert open_bundle("again").parts.keys() == {"encoder"}
