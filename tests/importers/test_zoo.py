"""Whole pipelines of diffusers, tiny and at random initial weights: what they make of given embeddings and noise."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_pipelines as tiny
from ncdeploy import SampleOptions, make_bundle, open_engine, sample
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import Denoiser
from ncdeploy.denoisers.checkpoint import load_model, save_model
from ncdeploy.errors import FileError, InputError
from ncdeploy.export import export_onnx
from ncdeploy.export.part import export_parts
from ncdeploy.guidance import Guided
from ncdeploy.importers import import_model
from tiny_pipelines import MAKERS, SIDE, TOKENS

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own, of its parts that are missing here
STEPS, N = 10, 2
EMPTY = tiny.embeddings(1, seed=9)  # what the empty prompt of these models gives
FROM_TEXT = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    root = tmp_path_factory.mktemp("zoo")
    with warnings.catch_warnings(action="ignore"):
        made = {name: tiny.make(name) for name in MAKERS}
        return {name: (pipeline, tiny.write(pipeline, root / name)) for name, pipeline in made.items()}


def taken(name: str, folder: Path, **options: Any) -> Denoiser:
    """Imported with the options that the family needs."""
    needs: dict[str, Any] = {} if name == "DiT" else {"tokens": TOKENS}
    if name == "Flux":
        needs["shape"] = (4, SIDE, SIDE)
    if name in ("SD", "SD3", "PixArt"):
        files = {}
        for key in FROM_TEXT:
            if key in takes(name):
                np.save(folder / f"{key}.npy", EMPTY[key].numpy())
                files[key] = folder / f"{key}.npy"
        needs["null"] = [f"{key}={file}" for key, file in files.items()]
    return import_model(folder, **{**needs, **options})


def takes(name: str) -> tuple[str, ...]:
    return {
        "SD": ("prompt_embeds",), "SDXL": (*FROM_TEXT[:2], "time_ids"), "SD3": FROM_TEXT[:2],
        "Flux": (*FROM_TEXT[:2], "guidance_scale"), "DiT": (), "PixArt": (FROM_TEXT[0], FROM_TEXT[2]),
    }[name]  # fmt: skip


def given(name: str) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in tiny.embeddings(N).items() if key in takes(name)}


def noise() -> torch.Tensor:
    return torch.randn(N, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def theirs(name: str, pipeline: Any, weight: float, output: str) -> np.ndarray:
    """Samples or pictures of diffusers' own pipeline."""
    x = noise()
    how: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": weight, "output_type": output}
    if name == "DiT":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: x)
            images = pipeline([2, 7], **{**how, "output_type": "np"}).images
        return images.transpose(0, 3, 1, 2)
    texts = {key: value for key, value in tiny.embeddings(N).items() if key in takes(name) and key in FROM_TEXT}
    if weight != 1 and name in ("SD", "SD3", "PixArt"):
        texts |= {f"negative_{key}": EMPTY[key].repeat(N, *[1] * (EMPTY[key].ndim - 1)) for key in texts}
    if name == "SDXL":
        texts |= {f"negative_{key}": torch.zeros_like(value) for key, value in texts.items()}
    if name == "PixArt":
        texts |= {"use_resolution_binning": False, "negative_prompt": None}
    if name != "Flux":
        found = pipeline(**texts, latents=x, **how).images
    else:
        packed = pipeline._pack_latents(x, N, 4, SIDE, SIDE)
        how["guidance_scale"] = 3.5
        found = pipeline(**texts, latents=packed, height=SIDE, width=SIDE, **how).images
        found = pipeline._unpack_latents(found, SIDE, SIDE, 1) if output == "latent" else found
    return found.numpy()


def ours(name: str, model: Denoiser, weight: float) -> np.ndarray:
    """The same by the model's own plan, from the same noise."""
    plan = model.info.plan(steps=STEPS)
    denoise = Guided(TorchBackend(model, threads=1), weight) if weight != 1 else TorchBackend(model, threads=1)
    more: dict[str, Any] = {"labels": np.array([2, 7])} if name == "DiT" else {}
    if name != "DiT":
        more = {"conditions": given(name), "sample": np.arange(N)}
    x, D = (plan.noise[0] * noise().double().numpy()).astype(np.float32), None
    for k in range(1, len(plan)):
        D = denoise(x, np.full(N, plan.sigmas[k - 1], np.float32), **more)
        x = (plan.state[k, 0] * x.astype(np.float64) + plan.denoised[k, 0] * D).astype(np.float32)
    return x


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


@pytest.mark.parametrize(  # Flux is told its guidance
    ("name", "weight"), [(name, weight) for name in MAKERS for weight in (1, 3) if (name, weight) != ("Flux", 3)]
)
def test_ten_steps_and_the_picture_as_its_pipeline(
    name: str, weight: float, folders: dict[str, tuple[Any, Path]]
) -> None:
    pipeline, folder = folders[name]
    model = taken(name, folder)
    found = ours(name, model, weight)
    if name != "DiT":  # whose pipeline gives pictures alone
        assert apart(found, theirs(name, pipeline, weight, "latent")) < 1e-4
    with torch.no_grad():
        picture = model.parts[0].module(torch.from_numpy(found)).numpy()
    assert picture.shape == (N, 3, SIDE, SIDE)
    wanted = theirs(name, pipeline, weight, "pt")
    assert np.abs((picture / 2 + 0.5).clip(0, 1) - wanted).max() < 1e-4
    assert np.ptp(wanted) > 0.1


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_file_holds_it(name: str, folders: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    model = taken(name, folders[name][1])
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    assert again.info.conditions == model.info.conditions
    assert np.array_equal(ours(name, again, 1), ours(name, model, 1))


@pytest.mark.slow  # most of a minute each, of which the export takes nearly all
@pytest.mark.parametrize("name", MAKERS)
def test_as_a_bundle_in_parallel_as_in_sequence(
    name: str, folders: dict[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    model = taken(name, folders[name][1])
    guided = name != "Flux"
    export_onnx(model, tmp_path / "m.onnx", guidance=guided, threads=1)
    export_parts(model, {"decoder": tmp_path / "d.onnx"}, threads=1)
    plan = model.info.plan(steps=STEPS)
    make_bundle(tmp_path / "m.onnx", tmp_path / "b", plans=[plan], decoder=tmp_path / "d.onnx", threads=1)
    conditions = {"labels": np.array([2, 7])} if name == "DiT" else given(name)
    options = SampleOptions(guidance=3.0 if guided else None)

    def drawn(engine: Any, **how: Any) -> Any:
        return sample(engine, plan, seeds=range(N), conditions=conditions, options=options, **how)

    with open_engine(tmp_path / "b", threads=1) as engine:
        sequential, parallel = drawn(engine), drawn(engine, window=6, tolerance=0)
    assert apart(parallel.samples, sequential.samples) < 1e-5
    in_torch = drawn(TorchBackend(model, threads=1)).samples
    assert apart(sequential.samples, in_torch) < 1e-4
    with torch.no_grad():
        picture = model.parts[0].module(torch.from_numpy(in_torch)).numpy()
    assert apart(sequential.decoded, picture) < 1e-4


@pytest.mark.parametrize("size", ["10GB", "20KB"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_variants_and_shards(half: torch.dtype, size: str, tmp_path: Path) -> None:
    pipeline = tiny.make("SD3").to(half)
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    model = taken("SD3", tmp_path)
    assert model.notes[0] == "vae: the weights are those of the variant fp16"
    for part, theirs in ((model.network.model, pipeline.transformer), (model.parts[0].module.vae, pipeline.vae)):
        wanted = theirs.float().state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in part.state_dict().items())


def test_averaged_weights_beside(folders: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    tiny.write(folders["SD"][0], tmp_path)
    weights = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet_ema").mkdir()
    averaged = {name: value + 1 for name, value in weights.items()}
    save_file(averaged, tmp_path / "unet_ema" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet_ema" / "config.json").write_text((tmp_path / "unet" / "config.json").read_text())
    for ema, wanted in ((None, averaged), (False, weights)):
        found = taken("SD", tmp_path, ema=ema).network.model.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@pytest.mark.parametrize(
    ("name", "file", "settings", "message"),
    [
        ("SD", "unet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("SD", "unet", {"time_cond_proj_dim": 8}, "time_cond_proj_dim"),
        ("SD", "unet", {"addition_embed_type": "image"}, "addition_embed_type"),
        ("SD", "unet", {"attention_type": "gated"}, "attention_type"),
        ("SD", "unet", {"in_channels": 9}, "takes 9 and returns 4"),
        ("SD", "unet", {"_class_name": "UNet3DConditionModel"}, "describes a UNet3DConditionModel"),
        ("SD", "unet", {"cross_attention_dim": [16, 8]}, "one width for all"),
        ("SD", "unet", {"block_out_channels": [8, 32]}, "do not belong together"),
        ("SD", "vae", {"_class_name": "AutoencoderDC"}, "describes a AutoencoderDC"),
        ("SD", "vae", {"latent_channels": 8}, "latent_channels"),
        ("SD", "vae", {"scaling_factor": 0}, "scaling_factor: is 0"),
        ("SD", "vae", {"latents_mean": [0, 0, 0, 0]}, "latents_mean, latents_std"),
        ("SD", "vae", {"latents_mean": [0], "latents_std": [1]}, "expected 4 numbers"),
        ("SD", "vae", {"block_out_channels": [16]}, "do not belong together"),
        ("SD", "scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "describes a FlowMatchEuler"),
        ("SDXL", "unet", {"addition_time_embed_dim": "x"}, "are not those of such a model"),
        ("SD3", "transformer", {"sample_size": 64}, "at most 12"),
        ("SD3", "scheduler", {"_class_name": "DDIMScheduler"}, "expected FlowMatchEulerDiscreteScheduler"),
        ("SD3", "scheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("SD3", "scheduler", {"num_train_timesteps": 500}, "num_train_timesteps 1000"),
        ("SD3", "scheduler", {"shift": -1.0}, "shift comes to"),
        ("SD3", "scheduler", {"shift": "three"}, "shift: is 'three'"),
        ("Flux", "scheduler", {"time_shift_type": "cubic"}, "time_shift_type"),
        ("Flux", "scheduler", {"max_image_seq_len": 256}, "division"),
        ("Flux", "transformer", {"patch_size": 2}, "patch_size"),
        ("DiT", "transformer", {"out_channels": 12}, "returns 12"),
        ("DiT", "transformer", {"norm_type": "layer_norm"}, "cannot make this network"),
        ("PixArt", "transformer", {"caption_channels": None}, "caption_channels"),
        ("PixArt large", "vae", {}, "makes 1 pixels of a latent's side"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_refused_by_its_name(
    name: str, file: str, settings: dict[str, Any], message: str, folders: dict[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    tiny.write(tiny.pixart(large=True) if name == "PixArt large" else folders[name][0], tmp_path)
    config = "scheduler_config.json" if file == "scheduler" else "config.json"
    change(tmp_path / file / config, **settings)
    with pytest.raises((FileError, InputError), match=message) as caught:
        taken(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SD", {"tokens": None}, "nothing beside the network says how long its prompts are"),
        ("SD", {"tokens": 0}, "tokens: got 0"),
        ("SD", {"null": ["pooled_prompt_embeds=x.npy"]}, "NAME one of prompt_embeds"),
        ("SD", {"null_class": True}, "null-class"),
        ("SD", {"shift": 3.0}, "shift: is of flow matching"),
        ("DiT", {"tokens": 7}, "takes none"),
        ("SD3", {"schedule": "linear", "predicts": "eps"}, "only --shift"),
        ("SD3", {"clip": True}, "clip: is of models"),
        ("Flux", {"shape": (4, 7, 8)}, "divisible by 2"),
        ("Flux", {"shape": (3, 8, 8)}, "channels"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    name: str, options: dict[str, Any], message: str, folders: dict[str, tuple[Any, Path]]
) -> None:
    with pytest.raises((FileError, InputError), match=message):
        taken(name, folders[name][1], **options)


def test_half_of_the_empty_prompt_is_refused(folders: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", EMPTY["prompt_embeds"].numpy())
    with pytest.raises(InputError, match="null: pooled_prompt_embeds is missing"):
        taken("SD3", folders["SD3"][1], null=[f"prompt_embeds={tmp_path / 'empty.npy'}"])
    model = taken("SD3", folders["SD3"][1], null=[])
    assert "--null prompt_embeds=FILE --null pooled_prompt_embeds=FILE" in model.notes[-1]
    with pytest.raises(InputError, match="null value"):
        Guided(TorchBackend(model), 3.0)


def test_the_length_of_prompts_is_the_tokenizers(folders: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    tiny.write(folders["SD"][0], tmp_path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"model_max_length": 7}')
    change(tmp_path / "model_index.json", tokenizer=["transformers", "CLIPTokenizer"])
    model = import_model(tmp_path)
    assert model.info.conditions[0].shape == (7, 16)
    assert "tokenizer (CLIPTokenizer) of the pipeline is not taken over" in model.notes


def test_settings_of_flow_steps_that_are_left_are_named(folders: dict[str, tuple[Any, Path]], tmp_path: Path) -> None:
    tiny.write(folders["SD3"][0], tmp_path)
    change(tmp_path / "scheduler" / "scheduler_config.json", shift_terminal=0.1, stochastic_sampling=True)
    assert "shift_terminal 0.1, stochastic_sampling True" in taken("SD3", tmp_path).notes[-1]
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(InputError, match="--shift 3"):
        taken("SD3", tmp_path)
    assert taken("SD3", tmp_path, shift=2.0).info.default_plan["shift"] == 2


def test_networks_with_one_axis_and_those_told_a_size(tmp_path: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    one = diffusers.UNet1DModel(
        sample_size=8, in_channels=3, out_channels=3, time_embedding_type="positional", use_timestep_embedding=True,
        block_out_channels=(8, 16), norm_num_groups=4, act_fn="mish", flip_sin_to_cos=False, freq_shift=1,
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"), up_block_types=("UpResnetBlock1D",),
        mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock", layers_per_block=1,
        downsample_each_block=False,
    ).eval()  # fmt: skip
    one.save_pretrained(tmp_path / "one")
    model = import_model(tmp_path / "one", schedule="linear", predicts="eps")
    x, t = torch.randn(2, 3, 8), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        assert torch.equal(model.network(x, t), one(x, t).sample)
        large = tiny.pixart(large=True).transformer.eval()
        large.save_pretrained(tmp_path / "large")
        model = import_model(tmp_path / "large", schedule="linear", predicts="eps", tokens=TOKENS)
        x, texts = torch.randn(2, 4, SIDE, SIDE), tiny.embeddings(2)
        texts = {key: texts[key] for key in takes("PixArt")}
        size = {"resolution": torch.full((2, 2), 64.0), "aspect_ratio": torch.ones(2, 1)}
        wanted = large(
            x, texts["prompt_embeds"], t, size, encoder_attention_mask=texts["prompt_attention_mask"]
        ).sample[:, :4]
        assert torch.equal(model.network(x, t, None, texts, torch.arange(2)), wanted)
        other = {**size, "resolution": torch.full((2, 2), 8.0)}
        differing = large(x, texts["prompt_embeds"], t, other, encoder_attention_mask=texts["prompt_attention_mask"])
        assert not torch.allclose(differing.sample[:, :4], wanted, atol=1e-4)
