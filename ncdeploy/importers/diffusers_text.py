"""The text encoder of Stable Diffusion 1 and 2: CLIP's (Radford et al. 2021, arXiv 2103.00020), from the numbers of a
tokenizer to embeddings of a prompt. Modules are named as in its files; nothing but those is needed."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ncdeploy.denoisers.base import PartModule
from ncdeploy.errors import FileError
from ncdeploy.importers.arguments import Arguments
from ncdeploy.importers.diffusers_files import read_json
from ncdeploy.importers.weights import filled, read_weights
from ncdeploy.ports import Value

KIND, FOLDER, IDS = "CLIPTextModel", "text_encoder", "prompt_ids"
FILES = ("model.safetensors", "pytorch_model.bin", "model.fp16.safetensors")
ACTIVATIONS = ("quick_gelu", "gelu")


class TextEncoder(nn.Module):
    """prompt_ids int64 [samples, tokens] -> embeddings [samples, tokens, width] of its last layer, normed."""

    def __init__(self, settings: Arguments) -> None:
        super().__init__()
        width, tokens = settings.whole("hidden_size", 512), settings.whole("max_position_embeddings", 77)
        self.eps = settings.real("layer_norm_eps", 1e-5)
        vocabulary = settings.whole("vocab_size", 49408)
        self.embeddings = nn.ModuleDict(
            {"token_embedding": nn.Embedding(vocabulary, width), "position_embedding": nn.Embedding(tokens, width)}
        )
        layers = (Layer(settings, width, self.eps) for _ in range(settings.whole("num_hidden_layers", 12)))
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = nn.LayerNorm(width, self.eps)

    def forward(self, prompt_ids: Tensor) -> Tensor:
        hidden = self.embeddings["token_embedding"](prompt_ids) + self.embeddings["position_embedding"].weight
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            hidden = layer(hidden)
        embeds: Tensor = self.final_layer_norm(hidden)
        return embeds


class Layer(nn.Module):
    """hidden [samples, tokens, width]: attention to earlier tokens, then a perceptron, each after a norm."""

    def __init__(self, settings: Arguments, width: int, eps: float) -> None:
        super().__init__()
        inner = settings.whole("intermediate_size", 2048)
        self.heads = settings.whole("num_attention_heads", 8)
        self.quick = settings.choice("hidden_act", "quick_gelu", ACTIVATIONS) == "quick_gelu"
        if width % self.heads:
            raise FileError(f"num_attention_heads: is {self.heads}, expected a divisor of {width}")
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.layer_norm1(hidden)
        query, key, value = (
            self.self_attn[name](normed).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        seen = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        hidden = hidden + self.self_attn["out_proj"](seen)
        inner = self.mlp["fc1"](self.layer_norm2(hidden))
        inner = inner * torch.sigmoid(1.702 * inner) if self.quick else gelu(inner)
        result: Tensor = hidden + self.mlp["fc2"](inner)
        return result


def read_text_encoder(top: Path, kind: str | None, wanted: tuple[int, ...], name: str) -> PartModule | None:
    """The text encoder of a pipeline's folder as the encoder of its condition `name`, None where there is none, or one
    of another kind or size.

    top: the folder; kind: what model_index.json says it is; wanted: shape of the condition, (tokens, width)

    Raises FileError for one that is incomplete or damaged.
    """
    folder = top / FOLDER
    if kind != KIND or not (folder / "config.json").is_file():
        return None
    settings = Arguments(read_json(folder / "config.json"))
    try:
        shape = settings.whole("max_position_embeddings", 77), settings.whole("hidden_size", 512)
        if shape != wanted:
            return None
        file = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if file is None:
            raise FileError(f"has none of {', '.join(FILES)}")
        held: dict[str, Any] = {key.removeprefix("text_model."): value for key, value in read_weights(file).items()}
        held.pop("embeddings.position_ids", None)  # 0, 1, 2 ..., which older files hold
        module = filled(lambda: TextEncoder(settings), held, file)
    except FileError as e:
        raise e if str(folder) in str(e) else FileError(f"{folder}: {e}") from e
    inputs = (Value(name=IDS, dtype="int64", shape=wanted[:1]),)
    return PartModule(role="encoder", module=module.eval(), inputs=inputs, outputs=(name,))
