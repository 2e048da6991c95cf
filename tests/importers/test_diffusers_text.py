"""CLIP's text encoder of a pipeline, beside transformers': as a module, and as the encoder of a bundle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_pipelines as tiny
from ncdeploy.backends.parts import PartEngine
from ncdeploy.denoisers import Denoiser, weights_digest
from ncdeploy.errors import FileError
from ncdeploy.export.part import export_parts
from ncdeploy.formats.parts import read_part
from ncdeploy.importers import import_model
from tiny_pipelines import TOKENS

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
VOCABULARY = 99


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tiny.make("SD"), tmp_path_factory.mktemp("text") / "sd")


def with_text(folder: Path, width: int, **settings: Any) -> Any:
    """A text encoder at random weights, put into the folder; transformers' own."""
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        **settings,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "text_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return model


def ids() -> Tensor:
    return torch.randint(VOCABULARY, (3, TOKENS), generator=torch.Generator().manual_seed(1))


def width_of(model: Denoiser) -> int:
    (condition,) = model.info.conditions
    return condition.shape[1]


def roles(model: Denoiser) -> list[str]:
    return [part.role for part in model.parts]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_it_embeds_prompts_as_transformers_does(activation: str, pipeline: Path, tmp_path: Path) -> None:
    width = width_of(import_model(pipeline, tokens=TOKENS))
    theirs = with_text(pipeline, width, hidden_act=activation)
    model = import_model(pipeline, tokens=TOKENS)
    assert roles(model)[0] == "encoder"
    assert any("prompt_ids" in note for note in model.notes)
    assert not any("text_encoder" in note for note in model.notes)
    with torch.no_grad():
        wanted = theirs(ids())[0]
        assert torch.allclose(model.parts[0].module(ids()), wanted, rtol=0, atol=1e-5)
    model.parts = model.parts[:1]
    export_parts(model, {"encoder": tmp_path / "encoder.onnx"})  # compared with the module
    info = replace(model.info, weights_digest=weights_digest(model.state_dict()))
    part = read_part(tmp_path / "encoder.onnx", "encoder", info)
    with PartEngine(tmp_path / "encoder.onnx", part, info, threads=1) as engine:
        found = engine({"prompt_ids": ids().numpy()})["prompt_embeds"]
    assert np.abs(found - wanted.numpy()).max() < 1e-4 * np.abs(wanted.numpy()).max()


def test_one_of_another_size_is_left_and_a_damaged_one_refused(pipeline: Path) -> None:
    width = width_of(import_model(pipeline, tokens=TOKENS))
    with_text(pipeline, 2 * width)
    model = import_model(pipeline, tokens=TOKENS)
    assert "encoder" not in roles(model)
    assert any("text_encoder" in note for note in model.notes)
    with_text(pipeline, width, hidden_act="relu")
    with pytest.raises(FileError, match="hidden_act"):
        import_model(pipeline, tokens=TOKENS)
    with_text(pipeline, width)
    (pipeline / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(FileError, match=r"has none of model\.safetensors"):
        import_model(pipeline, tokens=TOKENS)
