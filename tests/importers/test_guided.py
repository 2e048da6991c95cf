"""State dicts of improved- and guided-diffusion: the same function, read off the weights, and nothing executed."""

import copy
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from guided_reference import evaluate, state_dict
from ncdeploy.backends.torch import TorchBackend
from ncdeploy.denoisers import load_model, save_model
from ncdeploy.denoisers.base import Denoiser
from ncdeploy.errors import FileError, InputError, NcdeployError
from ncdeploy.export import export_onnx
from ncdeploy.importers import import_model
from ncdeploy.importers.guided import can_import, load
from ncdeploy.training import TrainConfig
from ncdeploy.training.data import Dataset
from ncdeploy.training.loop import start_from
from ncdeploy_cli.main import app

SIDE = 8
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"scale_shift": False}, {"num_heads": 2}),
    "scale-shift": ({"blocks": 2, "attention": (0, 1)}, {"num_heads": 4}),
    "learned-variance": ({"learned": True}, {"num_heads": 2}),
    "classes": ({"classes": 5, "attention": ()}, {"num_heads": 1}),
    "residual": ({"resampling": "residual", "widths": (32, 64, 64)}, {"num_heads": 2}),
    "residual-added": ({"resampling": "residual", "scale_shift": False}, {"num_head_channels": 16}),
    "averaged": ({"resampling": "plain", "widths": (32, 64, 96), "attention": (0, 2)}, {"num_heads": 2}),
    "new-order": ({"classes": 3, "learned": True}, {"num_heads": 4, "new_attention_order": True}),
    "head-channels": ({"widths": (64, 32)}, {"num_head_channels": 8, "new_attention_order": True}),
    "narrow-first": ({"channels": 64, "widths": (32, 64), "picture": 1}, {"num_heads": 2}),
    "more heads up": ({"attention": (0, 1)}, {"num_heads": 2, "num_heads_upsample": 4}),
    "fewer heads up, new order": (
        {"attention": (0, 1)},
        {"num_heads": 4, "num_heads_upsample": 1, "new_attention_order": True},
    ),
    "one-level": ({"widths": (32,), "attention": (0,)}, {"num_heads": 2}),
}


def write(path: Path, weights: dict[str, Any], **how: Any) -> Path:
    torch.save(weights, path, **how)
    return path


def inputs(weights: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    g = torch.Generator().manual_seed(1)
    t = torch.tensor([0.0, 0.5, 17.25, 500.75, 999.0])
    x = torch.randn(len(t), weights["input_blocks.0.0.weight"].shape[1], SIDE, SIDE, generator=g)
    n = len(weights["label_emb.weight"]) if "label_emb.weight" in weights else 0
    return x, t, torch.arange(len(t)) % n if n else None


def reference(weights: dict[str, torch.Tensor], options: dict[str, Any], *at: Any) -> torch.Tensor:
    return evaluate(
        weights, *at, heads=options.get("num_heads", 0), head_width=options.get("num_head_channels", 0),
        new_order=options.get("new_attention_order", False), heads_up=options.get("num_heads_upsample", 0),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_network_computes_what_its_weights_mean(name: str, tmp_path: Path) -> None:
    built, options = CASES[name]
    weights = state_dict(**built)
    path = write(tmp_path / "ema_0.9999_250000.pt", weights)
    assert can_import(path)
    denoiser = load(path, image_size=SIDE, **options)
    x, t, y = inputs(weights)
    wanted = reference(weights, options, x, t, y)[:, : x.shape[1]]
    with torch.no_grad():
        network = denoiser.network
        assert isinstance(network, torch.nn.Module)
        assert (network(x, t, y) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert ("variance was dropped" in " ".join(denoiser.notes)) == built.get("learned", False)
    assert (denoiser.info.num_classes, denoiser.info.null_label) == (built.get("classes", 0), None)


def test_the_order_of_attention_and_its_heads_matter(tmp_path: Path) -> None:
    weights = state_dict()
    path = write(tmp_path / "m.pt", weights)
    x, t, _ = inputs(weights)
    wanted = reference(weights, {"num_heads": 2}, x, t)
    for wrong in ({"num_heads": 2, "new_attention_order": True}, {"num_heads": 4}, {"num_head_channels": 64}):
        network = load(path, image_size=SIDE, **wrong).network
        assert (network(x, t) - wanted).abs().max() > 0.01  # type: ignore[operator]


def test_heads_on_the_way_up_are_kept_in_a_file_and_left_out_where_they_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", state_dict())
    same = load(path, image_size=SIDE, num_heads=2, num_heads_upsample=2)
    assert same.config == load(path, image_size=SIDE, num_heads=2).config
    assert "heads_up" not in same.config["network"]
    other = load(path, image_size=SIDE, num_heads=2, num_heads_upsample=4)
    save_model(tmp_path / "again.pt", other)
    x, sigma = torch.ones(1, 3, SIDE, SIDE), torch.ones(1)
    assert torch.equal(load_model(tmp_path / "again.pt")(x, sigma), other(x, sigma))
    assert not torch.allclose(other(x, sigma), same(x, sigma), atol=1e-4)


WRAPPED = {
    "DDP": lambda w: {f"module.{name}": t for name, t in w.items()},
    "compiled in DDP": lambda w: {f"_orig_mod.module.{name}": t for name, t in w.items()},
    "nested": lambda w: {"state_dict": w, "loss": np.float64(0.1), "steps": np.int64(3), "name": "a"},
    "Lightning": lambda w: {
        "epoch": 3, "state_dict": {**{f"model.{name}": t for name, t in w.items()}, "loss.scale": torch.ones(1)},
    },
    "averaged beside raw": lambda w: {"model": {n: 0 * t for n, t in w.items()}, "ema": w, "opt": {"state": {}}},
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrappers_are_taken_off(wrap: str, tmp_path: Path) -> None:
    weights = state_dict()
    plain = load(write(tmp_path / "m.pt", weights), image_size=SIDE, num_heads=2)
    path = write(tmp_path / "w.pt", WRAPPED[wrap](weights))
    wrapped = import_model(path, image_size=SIDE, num_heads=2)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(wrapped.state_dict()[name], tensor)
    assert (plain.notes, len(wrapped.notes)) == ((), 1)
    assert "the weights were found" in wrapped.notes[0]


def test_safetensors(tmp_path: Path) -> None:
    weights = state_dict(learned=True)
    for wrap in ("DDP", ""):
        save_file(WRAPPED["DDP"](weights) if wrap else weights, tmp_path / "m.safetensors")
        assert can_import(tmp_path / "m.safetensors")
        denoiser = import_model(tmp_path / "m.safetensors", image_size=SIDE, num_heads=2)
        again = load(write(tmp_path / "m.pt", weights), image_size=SIDE, num_heads=2)
        x, sigma = torch.ones(1, 3, SIDE, SIDE), torch.ones(1)
        assert torch.equal(denoiser(x, sigma), again(x, sigma))
        assert "variance was dropped" in denoiser.notes[-1]


def test_latents_under_the_same_names_are_refused(tmp_path: Path) -> None:
    weights = {f"model.diffusion_model.{name}": t for name, t in state_dict().items()}
    weights["first_stage_model.decoder.conv_in.bias"] = torch.ones(1)
    path = write(tmp_path / "m.ckpt", {"state_dict": weights})
    assert not can_import(path)
    for format in (None, "guided-diffusion"):
        with pytest.raises(FileError, match="latent diffusion checkpoint"):
            import_model(path, format=format, image_size=SIDE, num_heads=2)


def test_the_variance_half_is_dropped_and_the_mean_half_is_not(tmp_path: Path) -> None:
    weights = state_dict(learned=True)

    def denoised() -> torch.Tensor:
        denoiser = load(write(tmp_path / "m.pt", weights), image_size=SIDE, num_heads=2, clip_denoised=False)
        with torch.no_grad():
            return denoiser(torch.ones(1, 3, SIDE, SIDE), torch.ones(1))

    before = denoised()
    weights["out.2.bias"][3:] += 7
    assert torch.equal(denoised(), before)
    weights["out.2.bias"][:3] += 7
    assert not torch.equal(denoised(), before)


def alphas(schedule: str, steps: int) -> np.ndarray:
    """The cumulative product of 1 - beta, as the papers define both schedules."""
    if schedule == "linear":
        scale = 1000 / steps
        return np.cumprod(1 - np.linspace(scale * 1e-4, scale * 0.02, steps))
    f = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(0.999, 1 - f[1:] / f[:-1]))


@pytest.mark.parametrize(
    ("schedule", "steps", "rescale"), [("linear", 1000, None), ("cosine", 4000, True), ("linear", 100, False)]
)
@pytest.mark.parametrize("predict_xstart", [False, True])
def test_the_denoiser_at_training_steps(
    schedule: str, steps: int, rescale: bool | None, predict_xstart: bool, tmp_path: Path
) -> None:
    weights = state_dict(blocks=1)
    denoiser = load(
        write(tmp_path / "m.pt", weights), image_size=SIDE, num_heads=2, noise_schedule=schedule,
        diffusion_steps=steps, rescale_timesteps=rescale, predict_xstart=predict_xstart, clip_denoised=False,
    )  # fmt: skip
    index = np.array([0, steps // 3, steps // 2])
    a = torch.from_numpy(alphas(schedule, steps)[index]).reshape(-1, 1, 1, 1)
    x_vp = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double()
    t = torch.from_numpy(index).double() * (1000 / steps if rescale else 1)
    output = evaluate(weights, x_vp, t, heads=2)
    wanted = output if predict_xstart else (x_vp - (1 - a).sqrt() * output) / a.sqrt()
    sigma = ((1 - a) / a).sqrt()
    with torch.no_grad():
        D = denoiser.double()(x_vp / a.sqrt(), sigma.flatten())
    assert ((D - wanted).abs() / (1 + sigma)).max() <= 1e-5
    assert denoiser.info.sigma_max == pytest.approx(np.sqrt(1 / alphas(schedule, steps)[-1] - 1))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    weights = state_dict(widths=(32, 32), classes=3, learned=True)
    # A random network amplifies float32 rounding, of t(sigma) and inside, and D multiplies that of eps by sigma. Less
    # steep in t, and with smaller outputs, it leaves the comparison of runtimes a margin on any machine.
    weights["time_embed.0.weight"] *= 0.1
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] *= 0.3
    return load(write(tmp_path_factory.mktemp("guided") / "m.pt", weights), image_size=SIDE, num_heads=2)


def test_there_is_no_unconditional_class(conditional: Denoiser) -> None:
    x, sigma = torch.ones(2, 3, SIDE, SIDE), torch.ones(2)
    with pytest.raises(InputError, match="needs one per row, 0 to 2"):
        conditional(x, sigma)
    backend = TorchBackend(conditional)
    with pytest.raises(InputError, match=r"lie in 0 \.\. 2; it takes 0 to 2"):
        backend(x, sigma, torch.tensor([0, 3]))
    assert not torch.equal(backend(x, sigma, torch.tensor([0, 1])), backend(x, sigma, torch.tensor([2, 1])))


def test_it_is_saved_and_exported_like_a_native_model(conditional: Denoiser, tmp_path: Path) -> None:
    save_model(tmp_path / "model.pt", conditional)
    loaded = load_model(tmp_path / "model.pt")
    x, sigma, labels = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0.1, 10.0]), torch.tensor([0, 2])
    assert torch.equal(loaded(x, sigma, labels), conditional(x, sigma, labels))
    assert not loaded.info.unconditional
    done = export_onnx(loaded, tmp_path / "model.onnx")
    assert done.parity is not None
    assert done.parity.ok


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ema.pt", state_dict(classes=3, learned=True))

    def run(*arguments: Any) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    done = run("import", "ema.pt", "-o", "model.pt", "--image-size", SIDE, "--num-heads", 2)
    assert done.exit_code == 0, done.output
    assert "variance was dropped" in " ".join(done.stdout.split())
    done = run("sample", "-e", "model.pt", "-n", 4, "--labels", "2,0", "--steps", 3, "-o", "s.npz")
    assert done.exit_code == 0, done.output
    with np.load("s.npz") as saved:
        assert saved["labels"].tolist() == [2, 0, 2, 0]
    done = run("sample", "-e", "model.pt", "-n", 2, "--steps", 3, "-o", "other.npz")
    assert done.exit_code == 1
    assert "--labels all" in " ".join(done.stderr.split())


def test_fine_tuning_never_drops_a_label(conditional: Denoiser) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 40)
    x = rng.normal(size=(40, 3, SIDE, SIDE)).astype(np.float32)
    data = Dataset(name="noise", x=x, held_out=x[:4], labels=labels, held_out_labels=labels[:4], num_classes=3)
    config = TrainConfig(steps=2, batch=8, conditional=True, label_dropout=0.9, device="cpu")
    seen: list[int] = []
    copied = copy.deepcopy(conditional)
    copied.network.embedding.label.register_forward_hook(  # type: ignore[union-attr]
        lambda module, given, out: seen.extend(given[0].tolist())
    )
    training = start_from(copied, data, config)
    for _ in training.run():
        pass
    assert len(seen) >= 16
    assert set(seen) == {0, 1, 2}
    assert training.finish().info.null_label is None


def test_info_and_config_must_agree_on_the_unconditional_class(conditional: Denoiser, tmp_path: Path) -> None:
    before = conditional.info
    conditional.info = replace(before, unconditional=True)
    try:
        with pytest.raises(InputError, match="disagree on unconditional"):
            save_model(tmp_path / "model.pt", conditional)
    finally:
        conditional.info = before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 2}, "give --image-size"),
        ({"image_size": 8}, "either --num-heads"),
        ({"image_size": 8, "num_heads": 2, "num_head_channels": 8}, "either --num-heads"),
        ({"image_size": 9, "num_heads": 2}, "sides divisible by 2"),
        ({"image_size": 8, "num_heads": 2, "noise_schedule": "square"}, "expected linear or cosine"),
        ({"image_size": 8, "num_heads": 2, "diffusion_steps": 5}, "expected 25 to"),
        ({"image_size": 8, "num_heads": 2, "diffusion_steps": 4000}, "--rescale-timesteps"),
        ({"image_size": 8, "num_heads": 2, "num_heads_upsample": 5}, "cannot be split into 5 heads"),
        ({"image_size": 8, "num_head_channels": 8, "num_heads_upsample": 2}, "num-heads-upsample: got 2"),
        ({"image_size": 8, "num_heads": 2, "num_heads_upsample": 0}, "num-heads-upsample: got 0"),
        ({"image_size": 8, "num_heads": 5}, "cannot be split into 5 heads"),
    ],
)
def test_options_that_the_file_cannot_tell(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", state_dict())
    with pytest.raises(NcdeployError, match=message):
        load(path, **options)


def damage(kind: str, w: dict[str, Any]) -> None:
    if kind == "missing":
        del w["middle_block.1.qkv.bias"]
    elif kind == "extra":
        w["input_blocks.1.0.gate.weight"] = torch.ones(3)
    elif kind == "shape":
        w["output_blocks.1.0.in_layers.2.weight"] = torch.ones(32, 32, 3, 3)
    elif kind == "view":  # claims a terabyte, holds four bytes
        w["time_embed.2.weight"] = torch.ones(1).expand(2**19, 2**19)
    elif kind == "empty":
        w["time_embed.2.weight"] = torch.ones(0, 2**40)
    elif kind == "scalar":
        w["input_blocks.1.0.out_layers.3.weight"] = torch.ones(())
    elif kind == "wide":
        w["input_blocks.1.0.out_layers.3.weight"] = torch.ones(320_000, 1, 1, 1)
    elif kind == "many":
        w["output_blocks.9999.0.in_layers.0.weight"] = torch.ones(32)
    elif kind == "super-resolution":
        w["input_blocks.0.0.weight"] = torch.ones(32, 6, 3, 3)
    elif kind == "classifier":
        for name in [name for name in w if name.startswith("output_blocks")]:
            del w[name]
    elif kind == "no tensor":
        w["out.2.bias"] = [1.0, 2.0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no weight middle_block.1.qkv.bias"),
        ("extra", "does not need, such as input_blocks.1.0.gate.weight"),
        ("shape", "output_blocks.1.0.in_layers.2.weight has shape"),
        ("view", "'time_embed.2.weight' claims more values|is not a tensor of numbers"),
        ("empty", "'time_embed.2.weight' claims more values|is not a tensor of numbers"),
        ("scalar", "'input_blocks.1.0.out_layers.3.weight' is not a tensor of numbers"),
        ("wide", "has shape"),
        ("many", "incomplete"),
        ("super-resolution", "super-resolution network"),
        ("classifier", "classifiers of that project"),
        ("no tensor", "state dict"),
    ],
)
def test_other_files_are_refused_in_one_line(kind: str, message: str, tmp_path: Path) -> None:
    weights: dict[str, Any] = state_dict()
    damage(kind, weights)
    path = write(tmp_path / "m.pt", weights)
    with pytest.raises(FileError, match=message) as caught:
        load(path, image_size=SIDE, num_heads=2)
    assert "\n" not in str(caught.value)


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_hostile_file_runs(legacy: bool, tmp_path: Path) -> None:
    weights: dict[str, Any] = state_dict()
    weights["out.2.bias"] = Touch(tmp_path / "touched")
    path = write(tmp_path / "m.pt", weights, _use_new_zipfile_serialization=not legacy)
    assert can_import(path)
    with pytest.raises(FileError):
        load(path, image_size=SIDE, num_heads=2)
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(Touch(tmp_path / "touched")))  # the trap itself works
    assert (tmp_path / "touched").exists()


def test_the_old_file_format_and_half_precision_are_read(tmp_path: Path) -> None:
    weights = state_dict()
    old = write(tmp_path / "old.pt", weights, _use_new_zipfile_serialization=False)
    half = write(tmp_path / "half.pt", {name: tensor.half() for name, tensor in weights.items()})
    x = torch.ones(1, 3, SIDE, SIDE)
    assert can_import(old)
    a, b = (load(path, image_size=SIDE, num_heads=2)(x, torch.ones(1)) for path in (old, half))
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 0.05


def test_detection_looks_at_names_alone(tmp_path: Path) -> None:
    other = write(tmp_path / "other.pt", {"layer.weight": torch.ones(2)})
    text = tmp_path / "text.pt"
    text.write_text("input_blocks.0.0.weight middle_block. output_blocks. time_embed.")
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("x/readme", "nothing")
    for path in (other, text, archive, tmp_path, tmp_path / "missing.pt"):
        assert not can_import(path)


def test_mutated_files_end_in_a_clear_error_or_in_a_model(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.pt", state_dict(widths=(32,), attention=()), _use_new_zipfile_serialization=False)
    content = whole.read_bytes()
    rng = np.random.default_rng(0)
    path, lines = tmp_path / "mutated.pt", []
    for round_ in range(120):
        data = bytearray(content[: rng.integers(1, len(content))] if round_ % 4 == 0 else content)
        for at in rng.integers(0, min(len(data), 12_000), 3):  # where the pickles are
            data[at] = rng.integers(256)
        path.write_bytes(data)
        can_import(path)
        try:
            load(path, image_size=SIDE, num_heads=2)
        except FileError as e:
            lines.append(len(str(e).splitlines()))
    assert len(lines) > 60
    assert set(lines) == {1}
