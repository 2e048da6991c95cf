"""What stands in a folder beside the network: which weights are taken, what is said, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LDMPipeline, UNet2DModel, VQModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

from ncdeploy.denoisers import Denoiser
from ncdeploy.errors import FileError, InputError
from ncdeploy.export import export_onnx
from ncdeploy.importers import detect_format, import_model
from tiny_diffusers import PLAIN, network

pytestmark = pytest.mark.filterwarnings(  # diffusers converts its tables with np.array(tensor)
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


def same(denoiser: Denoiser, model: UNet2DModel) -> bool:
    ours = denoiser.network.unet.state_dict()  # type: ignore[union-attr]
    return all(torch.equal(ours[name], tensor.float()) for name, tensor in model.state_dict().items())


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, UNet2DModel, UNet2DModel]:
    """As diffusers' own training script leaves it: checkpoint-7/unet, checkpoint-7/unet_ema, scheduler above."""
    raw, averaged = network(), network()
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.add_(0.01)
    folder = tmp_path / "run" / "checkpoint-7"
    raw.save_pretrained(folder / "unet")
    config = {name: value for name, value in averaged.config.items() if not name.startswith("_")}
    EMAModel(averaged.parameters(), model_cls=UNet2DModel, model_config=config).save_pretrained(folder / "unet_ema")
    assert "optimization_step" in json.loads((folder / "unet_ema" / "config.json").read_text())
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path / "run" / "scheduler")
    return folder, raw, averaged


def test_of_two_sets_of_weights_the_averaged_are_taken_and_it_is_said(
    checkpoint: tuple[Path, UNet2DModel, UNet2DModel],
) -> None:
    folder, raw, averaged = checkpoint
    taken = import_model(folder)
    assert same(taken, averaged)
    assert "weights are those of unet_ema" in taken.notes[0]
    assert same(import_model(folder, ema=True), averaged)
    other = import_model(folder, ema=False)
    assert same(other, raw)
    assert "weights are those of unet;" in other.notes[0]
    named = import_model(folder / "unet")
    assert same(named, raw)
    assert "unet_ema beside it" in named.notes[0]


def test_the_averaged_weights_alone(checkpoint: tuple[Path, UNet2DModel, UNet2DModel]) -> None:
    folder, _, averaged = checkpoint
    assert same(import_model(folder / "unet_ema"), averaged)
    shutil.rmtree(folder / "unet")
    assert detect_format(folder) == "diffusers"
    assert same(import_model(folder), averaged)
    with pytest.raises(InputError, match="no choice between unet_ema and unet"):
        import_model(folder, ema=False)


@pytest.fixture(scope="module")
def model() -> UNet2DModel:
    return network()


def write(folder: Path, model: UNet2DModel, **how: Any) -> None:
    model.save_pretrained(folder, **how)
    DDPMScheduler(clip_sample=False).save_pretrained(folder)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", ["10GB", "20KB"])
def test_weights_as_save_pretrained_writes_them(
    size: str, variant: str | None, safe: bool, model: UNet2DModel, tmp_path: Path
) -> None:
    half = network().half()
    write(tmp_path, half, variant=variant, max_shard_size=size, safe_serialization=safe)
    assert (len(list(tmp_path.glob("*-0000*"))) > 1) == (size == "20KB")
    denoiser = import_model(tmp_path)
    assert same(denoiser, half)
    assert next(denoiser.parameters()).dtype == torch.float32
    assert ("variant fp16" in " ".join(denoiser.notes)) == (variant == "fp16")


def test_the_plain_weights_are_taken_where_there_are_variants_too(model: UNet2DModel, tmp_path: Path) -> None:
    write(tmp_path, model)
    plain = import_model(tmp_path)
    for variant in ("fp16", "bf16"):
        network().half().save_pretrained(tmp_path, variant=variant)
    both = import_model(tmp_path)
    assert same(both, model)
    assert both.notes == plain.notes
    assert same(import_model(tmp_path, variant="fp16"), network().half())
    with pytest.raises(InputError, match="no variant 'fp8'; it has: bf16, fp16, plain"):
        import_model(tmp_path, variant="fp8")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="choose with --variant: bf16, fp16"):
        import_model(tmp_path)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({}, "no weight_map"),
        ({"conv_in.weight": "../outside.safetensors"}, "other things than files beside it"),
        ({"conv_in.weight": ["a"]}, "no such file"),
        ({"conv_in.weight": "missing.safetensors"}, "no such file"),
        ({"wings": "diffusion_pytorch_model-00001-of-00002.safetensors"}, "lacks 'wings'"),
        ({f"w{i}": f"{i}" for i in range(1001)}, "other things than files"),
    ],
)
def test_an_index_that_lies(places: dict[str, Any], message: str, model: UNet2DModel, tmp_path: Path) -> None:
    write(tmp_path, model, max_shard_size="60KB")
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    shard = json.loads(index.read_text())["weight_map"]["conv_in.weight"]
    text = json.dumps({"weight_map": places}).replace("diffusion_pytorch_model-00001-of-00002.safetensors", shard)
    index.write_text(text)
    with pytest.raises(FileError, match=message) as caught:
        import_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    decoder = VQModel(
        in_channels=1, out_channels=1, block_out_channels=(8,), latent_channels=1, num_vq_embeddings=4,
        norm_num_groups=4, sample_size=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("latents") / "ldm"
    LDMPipeline(vqvae=decoder, unet=network(), scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("where", ["", "unet"])
@pytest.mark.parametrize("index", [True, False])
def test_a_pipeline_of_latents_has_its_decoder(where: str, index: bool, latents: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(latents, tmp_path / "ldm"))
    if not index:
        (folder / "model_index.json").unlink()
    model = import_model(folder / where, clip=False)
    assert (model.info.sigma_data, model.info.offset, model.info.scale) == (1, 0, 1)
    assert model.notes == ()
    x = torch.randn(3, 1, 8, 8)
    reference = VQModel.from_pretrained(latents / "vqvae")
    with torch.no_grad():
        wanted = reference.decode(x / reference.config.scaling_factor).sample
        assert torch.allclose(model.parts[0].module(x), wanted, atol=1e-5)


@pytest.mark.parametrize("where", ["", "unet"])
@pytest.mark.parametrize("change", ["another name", "index alone"])
def test_latents_without_what_decodes_them_are_refused(where: str, change: str, latents: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(latents, tmp_path / "ldm"))
    shutil.rmtree(folder / "vqvae")
    if change == "another name":
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace('"vqvae"', '"decodes"'))
    with pytest.raises(FileError, match=r"is a latent pipeline, and (vqvae|decodes).*is missing") as caught:
        import_model(folder / where)
    assert "\n" not in str(caught.value)
    shutil.copytree(latents / "unet", tmp_path / "elsewhere" / "unet")
    assert import_model(tmp_path / "elsewhere", schedule="linear", predicts="eps").info.shape == (1, 8, 8)


def test_other_parts_of_a_pipeline_are_named(model: UNet2DModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "unet")
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    parts = {"unet": ["diffusers", "UNet2DModel"], "mel": ["diffusers", "Mel"], "gone": [None, None], "_version": "1"}
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioDiffusionPipeline", **parts}))
    assert import_model(tmp_path).notes == ("mel (Mel) of the pipeline is not taken over",)


def test_a_learned_variance_is_dropped_where_it_is_known_or_said(tmp_path: Path) -> None:
    twice = network(**{**PLAIN, "out_channels": 2})
    write(tmp_path, twice)
    with pytest.raises(InputError, match="--learned-variance drop"):
        import_model(tmp_path)
    said = import_model(tmp_path, learned_variance="drop")
    DDPMScheduler(clip_sample=False, variance_type="learned_range").save_pretrained(tmp_path)
    known = import_model(tmp_path)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        wanted = twice(x, t).sample
        for denoiser in (said, known):
            got = denoiser.network(x, t, None)  # type: ignore[operator]
            assert torch.allclose(got, wanted[:, :1], atol=1e-6)
            assert not torch.allclose(got, wanted[:, 1:], atol=1e-2)
            assert any("learned variance was dropped" in note for note in denoiser.notes)
    assert export_onnx(said, tmp_path / "m.onnx", threads=1).parity.ok  # type: ignore[union-attr]


def test_a_last_layer_without_channels_is_a_misfit(tmp_path: Path) -> None:
    twice = network(**{**PLAIN, "out_channels": 2})
    write(tmp_path, twice)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({**twice.state_dict(), "conv_out.bias": torch.tensor(1.0)}, file)
    with pytest.raises(FileError, match=r"'conv_out\.bias' has shape"):
        import_model(tmp_path, learned_variance="drop")


@pytest.mark.parametrize(("word", "message"), [("drop", "there is none to drop"), ("keep", "expected drop")])
def test_there_must_be_a_variance_to_drop(word: str, message: str, model: UNet2DModel, tmp_path: Path) -> None:
    write(tmp_path, model)
    with pytest.raises(InputError, match=message):
        import_model(tmp_path, learned_variance=word)
