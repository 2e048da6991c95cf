"""Training denoisers, with the denoising loss alone or with the contrastive loss beside it. Needs PyTorch.

`load_data` and `Dataset` alone need NumPy only, so that models are judged on machines without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from ncdeploy.training.data import DATA_NAMES, Dataset, load_data

if TYPE_CHECKING:
    from ncdeploy.training.config import ContrastiveConfig, TrainConfig
    from ncdeploy.training.interrupt import StopRequest
    from ncdeploy.training.log import StepLog
    from ncdeploy.training.loop import Progress, Training, start, start_from
    from ncdeploy.training.saving import resume_command, resume_training, save_training

_HOME = {
    "ContrastiveConfig": "config",
    "TrainConfig": "config",
    "StopRequest": "interrupt",
    "StepLog": "log",
    "Progress": "loop",
    "Training": "loop",
    "start": "loop",
    "start_from": "loop",
    "resume_command": "saving",
    "resume_training": "saving",
    "save_training": "saving",
}

__all__ = [
    "DATA_NAMES",
    "ContrastiveConfig",
    "Dataset",
    "Progress",
    "StepLog",
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


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'ncdeploy.training' has no attribute {name!r}")
    return getattr(import_module(f"ncdeploy.training.{_HOME[name]}"), name)
