"""Tokens of a prompt, [77, 1024]: projected once a sample, never repeated for every row."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ncdeploy import Condition, make_plan
from ncdeploy.export import export_onnx
from ncdeploy.export.compose import choose_record, export_graph
from ncdeploy.importers.module import wrap_module

LENGTH, WIDTH, INNER = 77, 1024, 16
TOKENS = Condition(name="tokens", dtype="float32", shape=(LENGTH, WIDTH), null=0.0)


class CrossAttention(nn.Module):
    """Pixels look at the tokens of their sample. Takes `sample`, so keys and values are computed once a sample."""

    def __init__(self, inner: int = INNER) -> None:
        super().__init__()
        self.query, self.keys = nn.Linear(2, inner), nn.Linear(WIDTH, inner)
        self.values, self.outer = nn.Linear(WIDTH, inner), nn.Linear(inner, 1)

    def forward(self, x: Tensor, noise: Tensor, tokens: Tensor, sample: Tensor) -> Tensor:
        pixels = torch.stack([x, noise[:, None].expand_as(x)], dim=-1)  # (B, d, 2)
        keys, values = self.keys(tokens)[sample], self.values(tokens)[sample]
        mixed = scaled_dot_product_attention(*(t[:, None] for t in (self.query(pixels), keys, values)))  # one head
        output: Tensor = self.outer(mixed[:, 0])[..., 0]
        return output


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    torch.manual_seed(0)
    model = wrap_module(CrossAttention(), shape=(6,), predicts="F", conditions=[TOKENS]).eval()
    export_onnx(model, folder / "plain.onnx", threads=1)
    export_onnx(model, folder / "guided.onnx", guidance=True, threads=1)
    record = choose_record(make_plan("ddim", 8, schedule="karras"), model.info, kind="sampler", window=4)
    export_graph(folder / "plain.onnx", folder / "sampler.onnx", record, threads=1)
    return folder


def shapes(graph: onnx.GraphProto) -> list[tuple[Any, ...]]:
    """Of every value, its first axes by name where they are not fixed."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return [tuple(d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim) for v in values]


@pytest.mark.parametrize("name", ["plain", "guided"])
def test_no_row_has_tokens_of_its_own(files: Path, name: str) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(files / f"{name}.onnx")).graph
    found = shapes(graph)
    whole = [shape for shape in found if shape[1:] == (LENGTH, WIDTH)]
    projected = [shape for shape in found if shape[1:] == (LENGTH, INNER)]
    assert whole
    assert {str(shape[0]) for shape in whole} <= {"samples", "2*samples"}
    assert {str(shape[0]) for shape in projected} >= ({"samples", "batch"} if name == "plain" else {"2*batch"})
    assert not [shape for shape in found if WIDTH in shape and "batch" in str(shape[0])]


def test_a_sampler_graph_projects_them_before_its_loop(files: Path) -> None:
    graph = onnx.load(files / "sampler.onnx").graph
    body = next(a.g for node in graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body")
    wide = {t.name for t in [*graph.initializer, *body.initializer] if WIDTH in t.dims}
    assert len([node for node in graph.node if wide & set(node.input)]) == 2, "keys and values"
    assert not [node for node in body.node if wide & set(node.input)]
