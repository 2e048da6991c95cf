"""Training denoisers, with the denoising loss alone or with the contrastive loss beside it. Needs PyTorch."""

from ncdeploy.training.config import ContrastiveConfig, TrainConfig
from ncdeploy.training.data import DATA_NAMES, Dataset, load_data
from ncdeploy.training.interrupt import StopRequest
from ncdeploy.training.loop import Progress, Training, start, start_from
from ncdeploy.training.saving import resume_command, resume_training, save_training

__all__ = [
    "DATA_NAMES",
    "ContrastiveConfig",
    "Dataset",
    "Progress",
    "StopRequest",
    "TrainConfig",
    "Training",
    "load_data",
    "resume_command",
    "resume_training",
    "save_training",
    "start",
    "start_from",
]
