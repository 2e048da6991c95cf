"""The arms of the study: denoising losses, each plainly and with the contrastive loss beside it.

An arm is one phase of training or two, the second fine-tuning what the first made. Arms of one seed begin with the same
weights and see the same batches and noise. `plain-long` trains without the contrastive loss for as many network rows
as the contrastive arm takes.
"""

from dataclasses import replace

from ncdeploy.training import ContrastiveConfig, TrainConfig

NEIGHBOURS = ContrastiveConfig(
    weight=1.0, gap=1.0, fraction=0.03, terms=20, s_min=0.02, s_max=5.0, tau_min=0.01, tau_max=20.0
)
CLEAN = replace(NEIGHBOURS, gap=0.0, s_min=0.05)
TUNING = replace(NEIGHBOURS, weight=3.0, fraction=0.125, terms=16)
PAPER = ContrastiveConfig(
    weight=1 / 64, contrast="vp", gap=0.0, fraction=0.016, terms=128, s_min=0.01, s_max=1.0, tau_min=0.01, tau_max=157
)


def arms(steps: int) -> dict[str, tuple[TrainConfig, ...]]:
    """Name -> settings of its phases."""
    plain = TrainConfig(steps=steps, batch=128, warmup=200, ema=0.999, device="cpu")
    likelihood, ddpm = replace(plain, weighting="likelihood"), replace(plain, weighting="ddpm")
    tuning, slow = replace(plain, steps=steps // 4, lr=1e-3), replace(ddpm, steps=steps // 4, lr=1e-4)
    rows = 1 + 2 * NEIGHBOURS.points(plain.batch) * NEIGHBOURS.terms / plain.batch
    return {
        "plain": (plain,),
        "contrastive": (replace(plain, contrastive=NEIGHBOURS),),
        "plain-long": (replace(plain, steps=round(steps * rows)),),
        "clean": (replace(plain, contrastive=CLEAN),),
        "tuned": (plain, tuning),
        "tuned+contrastive": (plain, replace(tuning, contrastive=TUNING)),
        "tuned+clean": (plain, replace(tuning, contrastive=replace(CLEAN, fraction=0.125, terms=16))),
        "likelihood": (likelihood,),
        "likelihood+contrastive": (replace(likelihood, contrastive=NEIGHBOURS),),
        "ddpm": (ddpm,),
        "ddpm-tuned": (ddpm, slow),
        "ddpm-tuned+paper": (ddpm, replace(slow, contrastive=PAPER)),
    }
