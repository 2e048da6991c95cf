"""model.safetensors holds what model.pt holds, and a file made to break its reader is refused in one line."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ncdeploy.backends import open_engine
from ncdeploy.denoisers import Denoiser, build, default_config, load_model, load_record, save_model
from ncdeploy.errors import FileError, InputError
from ncdeploy.inspection import inspect_file


def small() -> Denoiser:
    return build(default_config((3,), network={"width": 16, "blocks": 1}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "m.safetensors", small(), record={"loss": 0.5})
    return tmp_path / "m.safetensors"


def parts(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(file: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_round_trip_is_bitwise_and_opens_by_content(tmp_path: Path) -> None:
    original = small()
    save_model(tmp_path / "m.safetensors", original, record={"loss": 0.5})
    save_model(tmp_path / "m.pt", original, record={"loss": 0.5})
    twin, plain = load_model(tmp_path / "m.safetensors"), load_model(tmp_path / "m.pt")
    assert (twin.info, twin.config) == (plain.info, plain.config)
    for name, tensor in original.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor)
    assert load_record(tmp_path / "m.safetensors") == {"loss": 0.5}
    other = (tmp_path / "m.safetensors").rename(tmp_path / "misnamed.pt")
    assert load_model(other).info == plain.info
    assert open_engine(other).info == plain.info
    found = inspect_file(other)
    assert (found.kind, found.details["record"]) == ("model.safetensors", {"loss": 0.5})
    assert b"pickle" not in other.read_bytes()


def test_what_resuming_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resuming"):
        save_model(tmp_path / "m.safetensors", small(), training_state={"step": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [9, 200, -100, -1])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    for read in (load_model, open_engine):
        with pytest.raises(FileError, match="truncated"):
            read(saved)


def test_an_altered_weight_or_description_is_noticed(saved: Path) -> None:
    header, data = parts(saved)
    put(saved, header, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(FileError, match="digest"):
        load_model(saved)
    about = json.loads(header["__metadata__"]["ncdeploy"])
    put(saved, {**header, "__metadata__": {"ncdeploy": json.dumps({**about, "record": {"loss": 0.25}})}}, data)
    with pytest.raises(FileError, match="digest"):
        load_record(saved)
    del about["digest"]  # as in earlier files
    for change, message in (
        ({"format": 2}, "format 2"), ({"config": {**about["config"], "shape": [4]}}, "belong together|disagree"),
        ({"info": "{}"}, "metadata"), ({"record": 3}, "'record'"), ({"weights": {}}, None),
    ):  # fmt: skip
        metadata = {"ncdeploy": json.dumps({**about, **change})}
        put(saved, {**header, "__metadata__": metadata}, data)
        if message is None:
            load_model(saved)
            continue
        with pytest.raises(FileError, match=message):
            load_model(saved)


def test_hostile_headers(saved: Path) -> None:
    header, data = parts(saved)
    name = next(n for n in header if n != "__metadata__")
    tensor = header[name]
    start, end = tensor["data_offsets"]
    attacks: dict[str, tuple[Any, bytes]] = {
        "offsets past the end": ({**header, name: {**tensor, "data_offsets": [start, end + 10**12]}}, data),
        "offsets backwards": ({**header, name: {**tensor, "data_offsets": [end, start]}}, data),
        "negative offsets": ({**header, name: {**tensor, "data_offsets": [-4, 4]}}, data),
        "overlapping": ({**header, "more": tensor}, data),
        "a hole": (header, data + bytes(100)),
        "unknown dtype": ({**header, name: {**tensor, "dtype": "OBJECT"}}, data),
        "huge shape": ({**header, name: {**tensor, "shape": [2**40, 2**40]}}, data),
        "negative shape": ({**header, name: {**tensor, "shape": [-1]}}, data),
        "not a header": (b'{"a": [', data),
        "deep": (b'{"a":' + b"[" * 100_000, data),
        "not utf-8": (b'{"\xff\xfe": 1}', data),
        "metadata not text": ({**header, "__metadata__": {"ncdeploy": 3}}, data),
        "description not json": ({**header, "__metadata__": {"ncdeploy": "{"}}, data),
        "deep description": ({**header, "__metadata__": {"ncdeploy": "[" * 100_000}}, data),
        "description not a dict": ({**header, "__metadata__": {"ncdeploy": "[1]"}}, data),
        "no description": ({k: v for k, v in header.items() if k != "__metadata__"}, data),
    }
    for attack, (text, content) in attacks.items():
        put(saved, text, content)
        with pytest.raises(FileError) as error:
            load_model(saved)
        assert "\n" not in str(error.value), attack
        assert len(str(error.value)) < 600, attack
    for length in (10**8 + 1, 2**63, 2**64 - 1):
        saved.write_bytes(struct.pack("<Q", length) + b"{" + data)
        with pytest.raises(FileError):
            load_model(saved)
        with pytest.raises(FileError):
            open_engine(saved)
    put(saved, header, data)
    load_model(saved)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="weights without a model"):
        load_model(tmp_path / "w.safetensors")


def test_no_flipped_bit_is_read_as_other_numbers(saved: Path) -> None:
    content, model, record = saved.read_bytes(), load_model(saved), load_record(saved)
    rng, noticed = np.random.default_rng(0), 0
    for bit in rng.integers(0, 8 * len(content), 150):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << int(bit % 8)
        saved.write_bytes(damaged)
        try:
            found, again = load_model(saved), load_record(saved)
        except FileError:
            noticed += 1
            continue
        assert (found.info, found.config, again) == (model.info, model.config, record)
        assert all(torch.equal(t, found.state_dict()[name]) for name, t in model.state_dict().items())
    assert noticed > 75
