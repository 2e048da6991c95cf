"""Models as one function, denoised = D(x, sigma[, labels]), with everything else inside. Needs PyTorch."""

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model,
    load_record,
    save_model,
    weights_digest,
)
from ncdeploy.denoisers.error_curve import measure_error_curve
from ncdeploy.denoisers.factory import build, default_config
from ncdeploy.denoisers.mixture import Mixture
from ncdeploy.denoisers.mlp import MLP, MLPConfig
from ncdeploy.denoisers.noise_table import NoiseTable
from ncdeploy.denoisers.precondition import EDM, VESDE, VP, VPSDE
from ncdeploy.denoisers.unet import UNet, UNetConfig

__all__ = [
    "EDM",
    "MLP",
    "VESDE",
    "VP",
    "VPSDE",
    "Checkpoint",
    "Denoiser",
    "MLPConfig",
    "Mixture",
    "NoiseTable",
    "UNet",
    "UNetConfig",
    "build",
    "default_config",
    "load_checkpoint",
    "load_model",
    "load_record",
    "measure_error_curve",
    "save_model",
    "weights_digest",
]
