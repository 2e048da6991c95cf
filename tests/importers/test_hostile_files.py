"""Files made to do harm: nothing in them runs, nothing hangs, and each ends in one clear line."""

import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edm_files
from hostile import Call, nothing_runs, refuse
from ncdeploy.backends import open_engine
from ncdeploy.denoisers import load_model
from ncdeploy.errors import FileError, NcdeployError
from ncdeploy.importers import edm_pickle, import_model, safe_pickle
from ncdeploy.importers.safe_pickle import read_pickle


@pytest.fixture(autouse=True)
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that every attack tries to make, in the working directory."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "witness"
    assert not (tmp_path / "witness").exists()


TOUCH = "touch witness"
ATTACKS: dict[str, Callable[[], Any]] = {
    "os.system": lambda: Call(os.system, TOUCH),
    "builtins.exec": lambda: Call(exec, "open('witness', 'w')"),
    "builtins.eval": lambda: Call(eval, "open('witness', 'w')"),
    "builtins.getattr": lambda: Call(getattr, Call(__import__, "os"), "system"),
    "io.open": lambda: Call(open, "witness", "w"),
    "torch.serialization.load": lambda: Call(torch.load, "witness"),
    "pickle": lambda: Call(pickle.loads, pickle.dumps(Call(os.system, TOUCH))),
    "_io.BytesIO": lambda: io.BytesIO(b"x"),
    "numpy": lambda: np.array([None]),  # an array of objects; one of numbers is kept, unread
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_calls_are_refused_by_name(name: str, protocol: int) -> None:
    expected = {
        "os.system": r"posix\.system",
        "numpy": r"NumPy type that is not|_codecs\.encode",  # how protocol 2 spells the bytes of an array
        "pickle": r"pickle\.loads",
    }
    message = expected.get(name, name.replace("builtins", r"(builtins|__builtin__)"))
    text = refuse(pickle.dumps(ATTACKS[name](), protocol), message)
    assert "nothing of it was run" in text


def tiny(change: Callable[[edm_files.Layer], None] = lambda network: None, source: str = "") -> bytes:
    network = edm_files.network(edm_files.tiny_layout(), source)
    change(network)
    return edm_files.dumps({"ema": network})


def test_the_attacks_would_work_on_an_unsafe_reader(witness: Path) -> None:
    with pytest.raises(AssertionError), nothing_runs():
        pickle.loads(pickle.dumps(Call(os.system, TOUCH)))
    assert witness.exists(), "the attack itself must work, or these tests show nothing"
    witness.unlink()


def test_source_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(tiny(source="open('witness', 'w')"))
    edm_pickle.load(path)  # what the first load imports is of no interest
    with nothing_runs():
        edm_pickle.load(path)


def deep_inside(network: edm_files.Layer) -> None:
    network.model.enc["4x4_block0"].__dict__["extra"] = [{"a": (1, Call(os.system, TOUCH))}]


def among_the_arguments(network: edm_files.Layer) -> None:
    network.model._init_kwargs["dropout"] = Call(os.system, TOUCH)


def as_a_storage(network: edm_files.Layer) -> None:
    blob = pickle.dumps(Call(os.system, TOUCH))
    network.__dict__["extra"] = Call(torch.storage._load_from_bytes, blob)


def as_a_storage_archive(network: edm_files.Layer) -> None:
    buffer = io.BytesIO()
    torch.save(Call(os.system, TOUCH), buffer)
    network.__dict__["extra"] = Call(torch.storage._load_from_bytes, buffer.getvalue())


def as_a_state(network: edm_files.Layer) -> None:
    network.__dict__["extra"] = Call(os.system, TOUCH, state={"a": 1})


NESTED = {
    deep_inside: r"posix\.system",
    among_the_arguments: r"posix\.system",
    as_a_storage: r"posix\.system",
    as_a_storage_archive: "damaged|unknown|opcode",
    as_a_state: r"posix\.system",
}


@pytest.mark.parametrize("place", NESTED, ids=lambda f: f.__name__)
def test_code_inside_a_network_is_not_run(place: Callable[[edm_files.Layer], None], tmp_path: Path) -> None:
    content = tiny(place)
    refuse(content, NESTED[place])
    (tmp_path / "net.pkl").write_bytes(content)
    for reader in (edm_pickle.load, import_model, load_model, open_engine):
        refuse(content, reader=lambda _, reader=reader: reader(tmp_path / "net.pkl"))


def test_larger_than_any_model(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    with path.open("wb") as f:
        f.write(b"\x80\x04_reconstruct_persistent_obj")
        f.truncate(safe_pickle.MAX_BYTES + 1)  # takes no space on the disk
    for reader in (read_pickle, edm_pickle.load, import_model):
        refuse(b"", "GiB", reader=lambda _, reader=reader: reader(path))


def test_missing_files_folders_and_pipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "regular"), (tmp_path / "pipe", "regular")):
        assert not edm_pickle.can_import(path)
        refuse(b"", message, reader=lambda _, path=path: edm_pickle.load(path))


def test_modules_that_hold_themselves(tmp_path: Path) -> None:
    network = edm_files.network(edm_files.tiny_layout())
    loop = network.model.enc
    loop._modules["again"] = loop
    (tmp_path / "net.pkl").write_bytes(edm_files.dumps({"ema": network}))
    refuse(b"", "hold themselves|damaged", reader=lambda _: edm_pickle.load(tmp_path / "net.pkl"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"a.weight": evil}, lambda evil: {"ema": evil}])
def test_code_in_torch_files(tmp_path: Path, legacy: bool, wrap: Callable[[Any], Any]) -> None:
    path = tmp_path / "model.pt"
    torch.save(wrap(Call(os.system, TOUCH)), path, _use_new_zipfile_serialization=not legacy)
    for reader in (load_model, open_engine, import_model, edm_pickle.load, guided_import):
        with pytest.raises(NcdeployError) as error:
            reader(path)
        assert "\n" not in str(error.value)
    torch.load(path, weights_only=False)
    assert (tmp_path / "witness").exists(), "the attack itself must work, or this test shows nothing"
    (tmp_path / "witness").unlink()


def guided_import(path: Path) -> Any:
    return import_model(path, format="guided-diffusion")


def test_truncated_anywhere(tmp_path: Path) -> None:
    content = tiny()
    for end in [*range(0, 300), *range(300, len(content), 501), len(content) - 1]:
        refuse(content[:end])


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, removed, repeated or moved, mostly where the opcodes are rather than the weights."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, size = int(rng.integers(0, len(data))), int(rng.integers(1, 9))
        kind = rng.integers(0, 5)
        if kind == 0:
            data[at] = int(rng.integers(0, 256))
        elif kind == 1:
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        else:
            other = int(rng.integers(0, len(data)))
            data[at : at + size] = data[other : other + size]
    return bytes(data)


def survive(tmp_path: Path, count: int, seed: int) -> None:
    """Mutated files load (where a weight or nothing of weight changed) or raise FileError in one line; nothing runs."""
    content = tiny(source="open('witness', 'w')")
    path = tmp_path / "net.pkl"
    path.write_bytes(content)
    edm_pickle.load(path)  # what the first load imports is of no interest, nor are the codecs that Python loads late
    b"x".decode("raw_unicode_escape")
    b"x".decode("unicode_escape")
    rng = np.random.default_rng(seed)
    messages = []
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        with nothing_runs():
            try:
                edm_pickle.load(path)
            except FileError as e:
                messages.append(str(e))
    assert not [text for text in messages if "\n" in text]
    assert len(messages) > count // 2


def test_mutations(tmp_path: Path) -> None:
    survive(tmp_path, 200, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_mutations(tmp_path: Path) -> None:
    survive(tmp_path, 10_000, seed=1)
