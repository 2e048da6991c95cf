"""hf://owner/name: what is fetched, and what is said where nothing can be."""

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ncdeploy.errors import FileError, InputError
from ncdeploy.importers import import_model
from ncdeploy.importers.hub import local, wanted
from tiny_diffusers import network

SHA = "0123456789abcdef0123456789abcdef01234567"
PIPELINE = [
    "README.md", "model_index.json", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "scheduler/scheduler_config.json",
    "unet/config.json", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json", "evil.py",
]  # fmt: skip
KEPT = {
    "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "tokenizer/tokenizer_config.json",
}  # fmt: skip
SHARDS = [
    "config.json", "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "sub/config.json",
]  # fmt: skip


def test_of_a_pipeline_what_an_import_reads() -> None:
    assert set(wanted(PIPELINE, None)) == KEPT | {"unet/diffusion_pytorch_model.safetensors"}
    assert set(wanted(PIPELINE, "fp16")) == KEPT | {"unet/diffusion_pytorch_model.fp16.safetensors"}
    assert set(wanted(SHARDS, None)) == {SHARDS[0], SHARDS[1], SHARDS[3]}
    assert set(wanted(SHARDS, "fp16")) == {SHARDS[0], SHARDS[2], SHARDS[4]}
    assert wanted([file for file in PIPELINE if not file.endswith(".safetensors")], None) == []


class Hub:
    """What of huggingface_hub is used, with one repository."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files, self.asked = folder, files, []  # type: ignore[var-annotated]

    def HfApi(self) -> "Hub":  # noqa: N802 - its name
        return self

    def model_info(self, name: str, revision: str | None) -> Any:
        self.asked.append((name, revision))
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=file) for file in self.files])

    def snapshot_download(self, name: str, *, revision: str, allow_patterns: list[str]) -> str:
        self.asked.append((name, revision, allow_patterns))
        return str(self.folder)


def put(monkeypatch: pytest.MonkeyPatch, hub: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", hub)


def test_a_model_is_fetched_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network().save_pretrained(tmp_path)
    hub = Hub(tmp_path, [file.name for file in tmp_path.iterdir()])
    put(monkeypatch, hub)
    model = import_model("hf://somebody/ddpm@v1", schedule="linear", predicts="eps")
    assert model.info.shape == (1, 8, 8)
    assert hub.asked[0] == ("somebody/ddpm", "v1")
    assert hub.asked[1][:2] == ("somebody/ddpm", SHA)
    assert local("hf://somebody/ddpm").name == f"hf://somebody/ddpm@{SHA}"
    assert local(str(tmp_path)).path == str(tmp_path)


def test_nothing_but_safetensors_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, Hub(tmp_path, ["config.json", "pytorch_model.bin"]))
    with pytest.raises(FileError, match=r"has no \.safetensors"):
        local("hf://somebody/ddpm")


@pytest.mark.parametrize("why", ["no network", "no package"])
def test_what_to_do_by_hand(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline(Hub):
        def model_info(self, name: str, revision: str | None) -> Any:
            raise ConnectionError("no route\nto host")

    if why == "no network":
        put(monkeypatch, Offline(Path(), []))
    else:
        usual = builtins.__import__

        def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == "huggingface_hub":
                raise ImportError(name)
            return usual(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(FileError, match=r"hf download somebody/ddpm --revision v1 .*ncdeploy import ddpm$") as caught:
        local("hf://somebody/ddpm@v1")
    assert ("no route" if why == "no network" else "[hub]") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf://", "hf://ddpm", "hf://a/b/c", "hf://a/b@", "hf://a/b c"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="expected hf://owner/name"):
        local(name)
