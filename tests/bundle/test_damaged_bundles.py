"""Whatever happens to a bundle's files, it is refused in one line, or means what it meant."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle_files import reseal
from mutations import mutate
from ncdeploy import Bundle, FileError, open_bundle, open_engine
from ncdeploy.formats import bundle as bundle_format
from ncdeploy.formats.manifest import ENGINES

FILES = ("manifest.json", "manifest.sha256", "model.onnx", "README.md", "plans/ddim-20.ncplan", "plans/unipc-8.ncplan")


def refused(folder: Path, said: str = "") -> None:
    for read in (open_bundle, open_engine):
        with pytest.raises(FileError, match=said) as e:
            read(folder)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_mutation_of_every_file_is_refused(copy, count):
    rng = np.random.default_rng(count)
    originals = {name: (copy / name).read_bytes() for name in FILES}
    for i in range(count):
        name = FILES[i % len(FILES)]
        (copy / name).write_bytes(mutate(originals[name], rng))
        with pytest.raises(FileError) as e:
            open_bundle(copy)
        assert "\n" not in str(e.value)
        (copy / name).write_bytes(originals[name])
    open_bundle(copy)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutations_with_fitting_digests_are_refused_or_are_a_bundle(copy, count):
    """An attacker who can write every file can make the digests fit; then the formats themselves must hold."""
    rng = np.random.default_rng(count)
    originals = {name: (copy / name).read_bytes() for name in (*FILES, "manifest.json")}
    opened = 0
    for i in range(count):
        name = ("manifest.json", "model.onnx", "plans/unipc-8.ncplan")[i % 3]
        (copy / name).write_bytes(mutate(originals[name], rng))
        reseal(copy, *([] if name == "manifest.json" else [name]))
        opened += is_good(copy)
        for restored in ("manifest.json", "manifest.sha256", name):
            (copy / restored).write_bytes(originals[restored])
    assert 0 < opened < count


ODD = [
    None, True, False, 0, 1, -1, 2**53, 1e308, 5e-324, -0.0, "", "..", "../x", "a\x00b", "\u202e", "x" * 5000, [], {},
    [[]], {"": {}}, [None], {"a": 1}, "NaN", "1", [1.5], ["a", 1], "model.plan", "/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_odd_values_anywhere_in_the_manifest_are_refused_or_are_a_bundle(copy, count):
    draw = random.Random(count)
    text = (copy / "manifest.json").read_text()
    opened = 0
    for _ in range(count):
        manifest = json.loads(text)
        holder, key = draw.choice(list(places(manifest)))
        match draw.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(["new", "format", "bytes", "file", "../x", ""])] = draw.choice(ODD)
            case _:
                holder[key] = draw.choice(ODD)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        reseal(copy)
        opened += is_good(copy)
    assert 0 < opened < count


def places(value: Any) -> Any:
    """Every (dict, key) and (list, index) of a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def is_good(folder: Path) -> bool:
    """Whether a bundle opens; if so, it must be one in every respect that a host relies on."""
    try:
        bundle = open_bundle(folder)
    except FileError as e:
        if "\n" in str(e):
            raise AssertionError("more than one line") from e
        return False
    assert bundle.engine.name in ENGINES
    assert bundle.engine.parent == folder
    assert bundle.info.dim == np.prod(bundle.info.shape)
    for name, stored in bundle.plans.items():
        assert stored.plan.name == name
        assert 1 <= stored.window <= stored.plan.evaluations
        assert 0 <= stored.tolerance < np.inf
        assert np.all(np.isfinite(stored.plan.state))
    return True


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the manifest, and make its digest fit."""

    def attack(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        reseal(folder)

    return attack


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    """Change the text of the manifest once, and make its digest fit."""

    def attack(folder: Path) -> None:
        text = (folder / "manifest.json").read_text()
        assert old in text
        (folder / "manifest.json").write_text(text.replace(old, new, 1))
        reseal(folder)

    return attack


def move(old: str, new: str) -> Callable[[Path], None]:
    """List a file under another name."""
    return edit(lambda m: m["files"].__setitem__(new, m["files"].pop(old)))


def swap(a: str, b: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(second)
        (folder / b).write_bytes(first)

    return attack


def swap_and_reseal(folder: Path) -> None:
    names = ("plans/ddim-20.ncplan", "plans/ddpm-30.ncplan")
    swap(*names)(folder)
    reseal(folder, *names)


def link_file(folder: Path) -> None:
    (folder / "README.md").rename(folder / "real.md")
    (folder / "README.md").symlink_to("real.md")


def link_folder(folder: Path) -> None:
    (folder / "plans").rename(folder.with_name("outside"))
    (folder / "plans").symlink_to(folder.with_name("outside"))


def link_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "m.json")
    (folder / "manifest.json").symlink_to("m.json")


def outside(folder: Path) -> None:
    shutil.copy(folder / "README.md", folder.parent / "secret.md")
    move("README.md", "../secret.md")(folder)


def pipe(folder: Path) -> None:
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


NESTED = '{"a": ' * 200_000 + "1" + "}" * 200_000

ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "plans swapped": (swap("plans/ddim-20.ncplan", "plans/ddpm-30.ncplan"), "ddim-20.ncplan: has .* bytes"),
    "plans swapped, digests too": (swap_and_reseal, "holds the plan 'ddpm-30', the manifest says 'ddim-20'"),
    "engine swapped for a text": (swap("model.onnx", "README.md"), "has .* bytes, the manifest says"),
    "a name that leaves": (outside, "not a name inside the bundle"),
    "an absolute name": (move("README.md", "/etc/hostname"), "not a name inside the bundle"),
    "a backslash": (move("README.md", "plans\\..\\x"), "not a name inside the bundle"),
    "a drive": (move("README.md", "C:x"), "not a name inside the bundle"),
    "a dot": (move("README.md", "./README.md"), "not a name inside the bundle"),
    "an empty part": (move("README.md", "plans//x"), "not a name inside the bundle"),
    "a hidden file": (move("README.md", ".ssh"), "not a name inside the bundle"),
    "a zero byte": (move("README.md", "a\0b"), "not a name inside the bundle"),
    "itself": (move("README.md", "manifest.json"), "not a name inside the bundle"),
    "a folder as a file": (lambda f: ((f / "a.data").mkdir(), move("README.md", "a.data")(f)), "not a regular file"),
    "a file as a folder": (move("README.md", "model.onnx/x"), "all a bundle holds"),
    "a library": (move("README.md", "library.so"), "all a bundle holds"),
    "code": (move("README.md", "plans/model.py"), "all a bundle holds"),
    "a plan that leaves": (
        edit(lambda m: m["plans"][0].update(file="plans/../x.ncplan")),
        r"file: got .*expected plans/NAME\.ncplan",
    ),
    "an engine that leaves": (edit(lambda m: m.update(engine="../model.onnx")), "engine: got"),
    "an engine that is not listed": (edit(lambda m: m["files"].pop("model.onnx")), "model.onnx is not among them"),
    "a plan that is not listed": (edit(lambda m: m["files"].pop("plans/heun-6.ncplan")), "is not among them"),
    "a linked file": (link_file, "README.md: is a link"),
    "a linked folder": (link_folder, "plans: is a link"),
    "a linked manifest": (link_manifest, "manifest.json: is a link"),
    "a pipe": (pipe, "not a regular file"),
    "a missing file": (lambda f: (f / "README.md").unlink(), "is missing"),
    "a missing digest": (lambda f: (f / "manifest.sha256").unlink(), "manifest.sha256: is missing"),
    "a huge size": (edit(lambda m: m["files"]["README.md"].update(bytes=2**52)), "bytes: got"),
    "a huge shape": (edit(lambda m: m["model"].update(shape=[2**28, 2**28])), "shape: got"),
    "a huge number of axes": (edit(lambda m: m["model"].update(shape=[1] * 100)), "shape: got"),
    "a huge window": (edit(lambda m: m["plans"][0].update(window=2**31)), "has window 2147483648, expected at most 20"),
    "a huge integer": (rewrite('"version": 1,', f'"version": {"9" * 10_000},'), "too large"),
    "a huge number": (rewrite('"tolerance": 0.001', '"tolerance": 1e999'), "too large"),
    "a huge file": (lambda f: os.truncate(f / "manifest.json", 2**40), "expected at most"),
    "a cut plan": (cut("plans/ddim-20.ncplan"), "ddim-20.ncplan: has .* bytes"),
    "a cut engine": (cut("model.onnx"), "model.onnx: has .* bytes"),
    "a cut manifest": (cut("manifest.json"), "does not have the digest"),
    "an empty manifest": (lambda f: os.truncate(f / "manifest.json", 0), "does not have the digest"),
    "a key twice": (rewrite('"version": 1,', '"version": 1, "version": 1,'), "'version' is there twice"),
    "a key twice, deep": (rewrite('"window": 16', '"window": 16, "window": 1'), "'window' is there twice"),
    "NaN": (rewrite('"tolerance": 0.001', '"tolerance": NaN'), "NaN is not a number"),
    "infinity": (rewrite('"tolerance": 0.001', '"tolerance": -Infinity'), "-Infinity is not a number"),
    "half a character": (rewrite('"data": ""', '"data": "\\ud800"'), "surrogates not allowed"),
    "deep nesting": (rewrite('"parity": {', f'"parity": {NESTED}, "x": {{'), "nested too deeply"),
    "a required key": (edit(lambda m: m.update(run=1, requires=["run"])), "needs the field 'run'.*update ncdeploy"),
    "a required key of the model": (edit(lambda m: m["model"].update(requires=["run"])), "model: .*the field 'run'"),
    "a required key of a plan": (edit(lambda m: m["plans"][0].update(requires=["run"])), "plans: .*the field 'run'"),
    "a newer version": (edit(lambda m: m.update(version=2)), "has version 2, this version reads 1; update ncdeploy"),
    "true as a number": (edit(lambda m: m.update(version=True)), "has version true"),
    "no plans": (edit(lambda m: m.update(plans=[])), "plans: got"),
    "a plan twice": (edit(lambda m: m["plans"].append(m["plans"][0])), "two have the same name"),
    "text as a mean": (edit(lambda m: m["model"].update(mean="12345")), "mean: got"),
    "a short mean": (edit(lambda m: m["model"].update(mean=[0.0])), "mean: got 1 values"),
    "another shape": (edit(lambda m: m["model"].update(shape=[6], mean=None)), "expected float32"),
    "another range": (edit(lambda m: m["model"].update(sigma_max=100.0)), "describes another model"),
    "a list": (lambda f: ((f / "manifest.json").write_text("[]"), reseal(f)), "holds a JSON list"),
    "another text encoding": (
        lambda f: ((f / "manifest.json").write_text((f / "manifest.json").read_text(), "utf-16"), reseal(f)),
        "not valid JSON",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(copy, name):
    attack, said = ATTACKS[name]
    attack(copy)
    refused(copy, said)


def test_what_means_the_same_is_read(copy):
    """The tests above must fail for their own reason: an edit that changes nothing leaves a bundle."""
    edit(lambda m: None)(copy)
    rewrite('"window": 16', '"window":\t16')(copy)
    (copy / "notes.txt").write_text("not listed, not read")
    assert isinstance(open_bundle(copy), Bundle)


def test_a_bundle_that_is_exchanged_while_it_is_read_is_read_again(copy, monkeypatch):
    """Halfway through the old one, its files are gone, and the name is that of the new one."""
    other = shutil.copytree(copy, copy.with_name("other"))
    edit(lambda m: m["plans"][0].update(tolerance=0.25))(other)
    (other / "README.md").write_text("of the new one")
    reseal(other, "README.md")
    checked = []

    def check(folder: Path, name: str, entry: Any) -> None:
        checked.append(name)
        if len(checked) == 1:
            shutil.rmtree(copy)
            other.rename(copy)
        real(folder, name, entry)

    real = bundle_format._check_file
    monkeypatch.setattr(bundle_format, "_check_file", check)
    assert 0.25 in [plan.tolerance for plan in open_bundle(copy).plans.values()]


def test_a_bundle_that_never_stays_is_refused(copy, monkeypatch):
    def check(folder: Path, name: str, entry: Any) -> None:
        os.utime(shutil.copytree(copy, copy.with_name("other")))
        shutil.rmtree(copy)
        copy.with_name("other").rename(copy)
        real(folder, name, entry)

    real = bundle_format._check_file
    monkeypatch.setattr(bundle_format, "_check_file", check)
    refused(copy, "is exchanged for another bundle faster than it can be read")


def test_folders_that_are_no_bundle(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        open_bundle(tmp_path / "missing")
    with pytest.raises(FileError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(FileError, match=r"is a folder; expected .* or a bundle"):
        open_engine(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    refused(tmp_path, r"manifest\.sha256: is missing")
    reseal(tmp_path)
    refused(tmp_path, "is not the manifest of a bundle")
