"""Settings: validated once, kept in the record, and the same in the help of the command line."""

import math
from dataclasses import fields
from itertools import pairwise

import pytest

from ncdeploy.errors import FileError, InputError
from ncdeploy.training.config import ContrastiveConfig, TrainConfig


def test_learning_rate_rises_linearly_and_falls_as_a_half_cosine() -> None:
    config = TrainConfig(steps=1000, lr=0.01, warmup=100)
    rates = [config.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01 / 100)
    assert rates[49] == pytest.approx(0.5 * 0.01 * 0.5 * (1 + math.cos(0.049 * math.pi)))
    assert rates[500] == pytest.approx(0.005)
    assert rates[-1] < 1e-7
    assert max(rates) <= 0.01
    assert all(a > b for a, b in pairwise(rates[100:]))


def test_short_runs_still_reach_a_useful_rate() -> None:
    config = TrainConfig(steps=10, lr=0.01, warmup=500)
    assert max(config.learning_rate(step) for step in range(10)) > 0.009


@pytest.mark.parametrize("contrastive", [None, ContrastiveConfig(fraction=0.3, contrast="vp", s_max=0.5)])
def test_record_round_trip(contrastive: ContrastiveConfig | None) -> None:
    config = TrainConfig(steps=7, lr=0.1, conditional=True, contrastive=contrastive)
    assert TrainConfig.from_record(config.to_record()) == config


def test_damaged_records() -> None:
    with pytest.raises(FileError, match="unknown settings"):
        TrainConfig.from_record({**TrainConfig().to_record(), "momentum": 1})
    with pytest.raises(FileError, match="damaged"):
        TrainConfig.from_record({**TrainConfig().to_record(), "steps": -1})


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch", 0), ("warmup", -1), ("seed", -1), ("lr", 0.0), ("lr", math.nan), ("clip", -1.0),
     ("ema", 1.0), ("label_dropout", 1.5), ("sigma_max", 0.001), ("device", "tpu"), ("precision", "fp8"),
     ("weighting", "snr")],
)  # fmt: skip
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match="sigma" if name.startswith("sigma") else name):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("weight", 0.0, "weight"), ("fraction", 0.0, "fraction"), ("terms", 1, "terms"), ("terms", 7, "even"),
     ("s_min", 9.0, "s range"),
     ("tau_max", math.inf, "tau range"), ("contrast", "vq", "ve or vp"), ("gap", -1.0, "gap"),
     ("warmup", -1, "warmup")],
)  # fmt: skip
def test_bad_contrastive_settings_are_named(name: str, value: float, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ContrastiveConfig(**{name: value})


def test_the_contrastive_weight_rises_linearly() -> None:
    config = ContrastiveConfig(weight=2.0, warmup=3)
    assert [config.weight_at(step) for step in range(6)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    assert ContrastiveConfig(weight=2.0).weight_at(0) == 2.0


def test_two_noise_levels_are_as_hard_to_tell_in_any_dimension() -> None:
    """The divergence of N(0, s^2) from N(0, base^2) in d dimensions stays about gap^2 nats."""
    for dim in (2, 64, 3072):
        ratio = ContrastiveConfig(gap=1.0).base_share(dim) ** -2
        assert 0.5 * dim * (math.log(ratio) + 1 / ratio - 1) == pytest.approx(1, abs=0.35)
    assert ContrastiveConfig(gap=0.0).base_share(2) == 0.0


def test_choices() -> None:
    assert TrainConfig.from_choices(None, {"steps": None}, {"weight": None}) == TrainConfig()
    chosen = TrainConfig.from_choices("contrastive", {"steps": 5}, {"weight": 2.0, "terms": None})
    assert (chosen.steps, chosen.contrastive) == (5, ContrastiveConfig(weight=2.0))
    likelihood = TrainConfig.from_choices("likelihood", {"weighting": None}, {})
    assert (likelihood.weighting, likelihood.contrastive, likelihood.objective) == ("likelihood", None, "likelihood")
    with pytest.raises(InputError, match="edm is not of --objective likelihood"):
        TrainConfig.from_choices("likelihood", {"weighting": "edm"}, {})
    with pytest.raises(InputError, match="is of the contrastive loss"):
        TrainConfig.from_choices("likelihood", {}, {"weight": 1.0})
    with pytest.raises(InputError, match="did you mean contrastive"):
        TrainConfig.from_choices("contrastve", {}, {})
    with pytest.raises(InputError, match="is of the contrastive loss"):
        TrainConfig.from_choices("denoising", {}, {"weight": 1.0})


def test_help_tells_the_real_defaults() -> None:
    from typer.main import get_command

    from ncdeploy_cli.main import app

    options = {p.name: p for p in get_command(app).commands["train"].params}
    told = {f"contrastive_{f.name}": f.default for f in fields(ContrastiveConfig)}
    told |= {f.name: f.default for f in fields(TrainConfig)} | {"objective": "denoising", "contrast": "ve"}
    told |= {"contrastive_range": f"{ContrastiveConfig.s_min},{ContrastiveConfig.s_max}"}
    named = {name: str(p.show_default) for name, p in options.items() if isinstance(p.show_default, str)}
    assert named.pop("threads") == "all cores"
    assert named.pop("network") == "by the data"
    named["steps"] = named.pop("updates")
    assert {"steps", "batch", "lr", "ema", "contrastive_weight", "contrastive_terms"} <= set(named)
    for name, text in named.items():
        assert text.partition(";")[0] == str(told[name])
