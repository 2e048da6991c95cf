"""Weights in the wrappers that training scripts leave: found where there is one place, asked for where
there are two."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ncdeploy.errors import FileError, InputError
from ncdeploy.importers.weights import find_weights, read_weights

OWN = {"layers.0.weight": torch.arange(6.0).reshape(2, 3), "layers.0.bias": torch.ones(2)}
RAW = {name: 0 * tensor for name, tensor in OWN.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


OPTIMIZER = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
FOUND: dict[str, tuple[Any, str]] = {
    "plain": (OWN, ""),
    "numbers beside": ({**OWN, "epoch": 3, "loss": np.float32(1.5), "name": "a", "none": None}, ""),
    "torch.compile": (under("_orig_mod.", OWN), "'_orig_mod.'"),
    "two wrappers": (under("_orig_mod.module.", OWN), "'_orig_mod.module.'"),
    "nested": ({"state_dict": OWN, "best": np.float64(0.1), "count": np.int64(3), "flag": np.True_}, "'state_dict'"),
    "nested twice": ({"checkpoint": {"model": OWN, "optimizer": OPTIMIZER}}, "'checkpoint.model'"),
    "with an optimizer": ({"epoch": 3, "model": OWN, "optimizer": OPTIMIZER}, "'model'"),
    "Lightning": ({"state_dict": {**under("model.", OWN), "metric.total": torch.ones(1)}}, "1 other tensors"),
    "averaged": ({"model": RAW, "ema": OWN}, "'ema', those of 'model' are left out"),
    "averaged by its name": ({"net": RAW, "model_ema": OWN, "opt": OPTIMIZER}, "'model_ema'"),
    "as denoising-diffusion-pytorch": (
        {"step": 3, "model": RAW, "opt": OPTIMIZER, "scaler": None,
         "ema": {"initted": torch.ones(1), **under("online_model.", RAW), **under("ema_model.", OWN)}},
        "'ema_model.'",
    ),
}  # fmt: skip


def save(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", FOUND)
def test_weights_are_found_and_it_is_said_where(name: str, zipped: bool, tmp_path: Path) -> None:
    content, said = FOUND[name]
    path = save(tmp_path / "w.pt", content, _use_new_zipfile_serialization=zipped)
    weights, notes = find_weights(path, OWN)
    assert weights.keys() == OWN.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in OWN.items())
    assert said in " ".join(notes)
    assert bool(notes) == bool(said)


def test_a_key_and_a_prefix_choose(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pt", {"a": under("module.", RAW), "b": under("module.", OWN), "ema": RAW})
    for names in (OWN, ()):
        weights, _ = find_weights(path, names, key="b", strip="module.")
        assert torch.equal(weights["layers.0.weight"], OWN["layers.0.weight"])
    assert list(find_weights(path, key="b")[0]) == list(under("module.", OWN))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"generator": OWN, "critic": OWN}, {}, "choose: --key 'generator' --strip '' or --key 'critic' --strip ''"),
        ({"a": {"x": torch.ones(1)}, "b": {"y": torch.ones(1)}}, {}, "choose with --key: 'a', 'b'"),
        ({"a": OWN}, {"key": "c"}, "no weights under 'c'; it has: 'a'"),
        ({"a": OWN}, {"strip": "module."}, "no weight of .* begins with 'module.'"),
    ],
)
def test_what_must_be_asked(content: Any, options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_weights(save(tmp_path / "w.pt", content), OWN, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a": OWN, "options": SimpleNamespace(lr=1)},
            r"Python objects \(types\.SimpleNamespace\) that could run code",
        ),
        ({"a": OWN, "array": np.array([None])}, "Python objects"),
        ({"a": [1, 2], "b": 3}, "is not a state dict, name -> tensor; it holds a, b"),
        ([torch.ones(1)], "is not a state dict, name -> tensor; it holds list"),
        ({}, "it holds nothing"),
    ],
)
def test_what_holds_no_weights_or_code(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=message) as caught:
        read_weights(save(tmp_path / "w.pt", content))
    assert "\n" not in str(caught.value)
