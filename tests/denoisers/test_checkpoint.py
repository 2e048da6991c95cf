"""model.pt keeps every bit, notices every change, and never runs what it holds."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ncdeploy.denoisers import (
    EDM,
    Denoiser,
    Mixture,
    NoiseTable,
    build,
    default_config,
    load_checkpoint,
    load_model,
    load_record,
    save_model,
)
from ncdeploy.errors import FileError, InputError
from ncdeploy.sampling.errorcurve import ErrorCurve

MLP = {"width": 16, "blocks": 1}
UNET = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_width": 8, "width": 16}


def edm() -> Denoiser:
    return build(default_config((1, 8, 8), num_classes=3, network=UNET))


def vp() -> Denoiser:
    config = {**default_config((3,), network=MLP), "kind": "vp", "predicts": "v"}
    return build({**config, "table": NoiseTable.cosine(20).to_config()})


def mixture() -> Denoiser:
    return Mixture(np.random.default_rng(0).normal(size=(4, 3)), 0.3, weights=[1, 2, 3, 4])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.pt", vp(), record={"loss": [1.5, 0.5]}, training_state={"step": 7})
    return tmp_path / "model.pt"


@pytest.mark.parametrize("make", [edm, vp, mixture])
def test_round_trip_is_bitwise(tmp_path: Path, make: Callable[[], Denoiser]) -> None:
    original = make()
    curve = ErrorCurve(sigmas=(0.1, 1.0), mse=(0.01, 0.2))
    original.info = replace(original.info, data="a set", offset=8.0, error_curve=curve)
    save_model(tmp_path / "m.pt", original)
    random_state = torch.get_rng_state()
    loaded = load_model(tmp_path / "m.pt")
    assert torch.equal(torch.get_rng_state(), random_state), "loading must not disturb the caller's random numbers"
    assert not loaded.training
    assert loaded.config == original.config
    info = replace(loaded.info, weights_digest="", versions={})
    assert info == original.info
    assert len(loaded.info.weights_digest) == 64
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    x, sigma = torch.randn(2, *info.shape), torch.tensor([0.3, 4.0])
    assert torch.equal(loaded(x, sigma), original.eval()(x, sigma))
    save_model(tmp_path / "again.pt", loaded)
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "m.pt").read_bytes()


def test_double_precision_survives(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pt", mixture().double())
    assert load_model(tmp_path / "m.pt")(torch.zeros(1, 3).double(), torch.ones(1).double()).dtype == torch.float64


def test_opens_as_plain_weights(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    assert set(payload) == {"format", "config", "weights", "info", "record", "training_state", "digest"}
    assert json.loads(json.dumps(payload["config"])) == payload["config"]
    assert load_record(saved) == {"loss": [1.5, 0.5]}
    assert load_checkpoint(saved).training_state == {"step": 7}


def test_a_finished_model_has_nothing_to_resume(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pt", vp())
    assert load_record(tmp_path / "m.pt") == {}
    assert load_checkpoint(tmp_path / "m.pt").training_state is None


def test_a_flipped_byte_in_any_weight_is_noticed(saved: Path) -> None:
    original = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        entries = [e for e in archive.infolist() if "/data/" in e.filename and e.file_size]
    assert entries
    for entry in entries:
        damaged = bytearray(original)
        header = entry.header_offset
        name, extra = (int.from_bytes(original[header + at : header + at + 2], "little") for at in (26, 28))
        damaged[header + 30 + name + extra] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(FileError, match=r"damaged|altered"):
            load_model(saved)
    saved.write_bytes(original)
    load_model(saved)


def test_changed_weights_in_a_sound_file_are_noticed(saved: Path) -> None:
    payload = torch.load(saved, weights_only=True)
    payload["weights"]["network.inner.bias"][0] += 1e-6
    torch.save(payload, saved)
    with pytest.raises(FileError, match="digest"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
def test_truncated(saved: Path, keep: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(FileError, match="truncated"):
        load_model(saved)


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"format": 1, "config": evil}])
def test_code_in_a_file_does_not_run(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    witness = tmp_path / "witness"
    torch.save(wrap(Evil(witness)), tmp_path / "zip.pt")
    torch.save(wrap(Evil(witness)), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(wrap(Evil(witness))))
    for name, reason in {"zip.pt": "run code", "legacy.pt": "not a model file", "bare.pt": "not a model file"}.items():
        with pytest.raises(FileError, match=reason):
            load_model(tmp_path / name)
    assert not witness.exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert witness.exists(), "the attack itself must work, or this test shows nothing"


def test_a_change_of_anything_is_noticed(saved: Path) -> None:
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda p: p["record"]["loss"].append(0.1),
        lambda p: p["training_state"].update(step=8),
        lambda p: p.update(info=p["info"].replace('"scale": 1.0', '"scale": 2.0')),
        lambda p: p["config"].update(predicts="eps"),
    ]
    for change in changes:
        payload = torch.load(saved, weights_only=True)
        before = str(payload)
        change(payload)
        assert str(payload) != before
        torch.save(payload, saved.with_name("changed.pt"))
        with pytest.raises(FileError, match="digest"):
            load_model(saved.with_name("changed.pt"))


def test_no_flipped_bit_is_read_as_other_numbers(saved: Path) -> None:
    """The checksums of the archive name each one that is read at all; what nobody reads may be flipped."""
    content = saved.read_bytes()
    model, record, state = load_checkpoint(saved)
    rng, noticed = np.random.default_rng(0), 0
    for bit in rng.integers(0, 8 * len(content), 150):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << int(bit % 8)
        saved.write_bytes(damaged)
        try:
            found, *again = load_checkpoint(saved)
        except FileError:
            noticed += 1
            continue
        assert (found.info, found.config, *again) == (model.info, model.config, record, state)
        assert all(torch.equal(t, found.state_dict()[name]) for name, t in model.state_dict().items())
    assert noticed > 75


def test_compressed_and_overlapping_archives_are_refused(saved: Path) -> None:
    """A few megabytes of zeros, compressed, are gigabytes; entries that share their bytes are any number of them."""
    with zipfile.ZipFile(saved) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name in contents:
        with zipfile.ZipFile(saved, "w") as archive:
            for other, content in contents.items():
                archive.writestr(other, content, zipfile.ZIP_DEFLATED if other == name else zipfile.ZIP_STORED)
        with pytest.raises(FileError, match="compressed"):
            load_model(saved)
    with zipfile.ZipFile(saved, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        first = archive.infolist()[0]
        for i in range(20_000):
            copied = zipfile.ZipInfo(f"{i}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(copied, field, getattr(first, field))
            archive.filelist.append(copied)
    with pytest.raises(FileError, match=r"fits into it|damaged"):
        load_model(saved)


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda payload: {key: value for key, value in payload.items() if key != name}


def config(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda payload: {**payload, "config": {**payload["config"], **changes}}


def weights(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda payload: {**payload, "weights": {**payload["weights"], **changes}}


def doubled(times: int) -> Any:
    """A few lists that stand for 2^times values."""
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return {"a": value}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {**p, "format": 2}, "format 2.*reads 1"),
        (lambda p: {**p, "format": torch.ones(3)}, "foreign"),
        (lambda p: p["weights"], "foreign"),
        (lambda p: [1, 2], "foreign"),
        (without("weights"), "'weights' is missing"),
        (without("info"), "'info' is missing"),
        (without("record"), "'record' is missing"),
        (lambda p: {**p, "info": "{}"}, "metadata"),
        (lambda p: {**p, "weights": {"a": 1}}, "not all tensors"),
        (config(kind="magic"), "magic"),
        (config(shape=[4]), "shape|disagree"),
        (config(shape=[-1]), "shape"),
        (config(shape=None), "cannot be built"),
        (config(sigma_data=0.25), "sigma_data"),
        (config(table={"alphas_cumprod": [[1], [2, 3]]}), "cannot be built"),
        (config(predicts="noise"), "predicts"),
        (without("config"), "'config' is missing"),
        (config(network={"kind": "mlp", "width": 32, "blocks": 1}), "do not belong together"),
        (config(network={"kind": "mlp", "width": 16, "blocks": 2}), "lacks weight"),
        (config(network={"kind": "mlp", "width": 2**20, "blocks": 2}), "do not belong together"),
        (config(kind="mixture", components=2**40, std=0.1), "do not belong together"),
        (weights(extra=torch.ones(1)), "unknown weight 'extra'"),
        (weights(**{"network.inner.bias": torch.ones(16, dtype=torch.int64)}), "int64"),
        (weights(**{"network.inner.bias": torch.ones(16).to_sparse()}), "sparse"),
        (weights(**{"network.inner.bias": torch.ones(1).expand(16)}), "more values than it holds"),
        (weights(**{"network.inner.bias": torch.ones(6).as_strided((16,), (0,))}), "more values than it holds"),
        (lambda p: {**p, "weights": dict.fromkeys(map(str, range(100)), torch.ones(2**16))}, "fits into it"),
        (config(network={"kind": "mlp", "width": 16, "blocks": 10**9}), "asks for more than"),
        (config(network={"kind": "mlp", "width": torch.ones(1), "blocks": 1}), "no setting"),
        (lambda p: {**p, "record": doubled(40)}, "more than .* values"),
        (lambda p: {**p, "record": {"a": nested(60)}}, "nested too deeply"),
    ],
)
def test_foreign_and_inconsistent_files(saved: Path, change: Callable[[Any], Any], message: str) -> None:
    payload = torch.load(saved, weights_only=True)
    del payload["digest"]  # as in earlier files, or made to fit
    torch.save(change(payload), saved)
    with pytest.raises(FileError, match=message) as error:
        load_model(saved)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load_model(tmp_path / "none.pt")
    with pytest.raises(FileError, match="is a folder"):
        load_model(tmp_path)
    for content in (b"", b"\x08\x07onnx", b"plain text"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FileError, match="not a model file"):
            load_model(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(FileError, match="damaged"):
        load_model(tmp_path / "x.zip")


def test_what_could_not_be_read_back_is_refused_and_the_old_file_kept(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match="record"):
        save_model(saved, vp(), record={"when": object()})
    with pytest.raises(InputError, match=r"training_state\['optimizer'\]\[0\]: got ndarray"):
        save_model(saved, vp(), training_state={"optimizer": [np.zeros(2)]})
    foreign = EDM(nn.Flatten(), vp().info)
    with pytest.raises(InputError, match="'Flatten' could not be rebuilt"):
        save_model(saved, foreign)
    changed = vp()
    changed.info = replace(changed.info, sigma_data=0.9)
    with pytest.raises(InputError, match="sigma_data"):
        save_model(saved, changed)
    assert saved.read_bytes() == before


def test_a_full_disk_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(payload: Any, f: io.BufferedWriter) -> None:
        f.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(FileError, match="cannot be written"):
        save_model(saved, vp())
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["model.pt"]
