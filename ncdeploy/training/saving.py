"""A run in the file of its model: stop anywhere between two steps, resume to the very same weights."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ncdeploy.denoisers.base import Denoiser
from ncdeploy.denoisers.checkpoint import load_checkpoint, save_model
from ncdeploy.denoisers.factory import build
from ncdeploy.errors import FileError, InputError
from ncdeploy.training.config import TrainConfig
from ncdeploy.training.data import Dataset, load_data
from ncdeploy.training.loop import Training


def save_training(path: str | os.PathLike[str], training: Training) -> None:
    """Write the model (averaged weights) together with what resuming needs; atomic, on the main process only.

    Raises FileError if the file cannot be written, InputError for a .safetensors name, which cannot hold a run.
    """
    if training.main_process:
        save_model(path, training.model(), record=training.record(), training_state=_state(training))


def resume_training(
    path: str | os.PathLike[str],
    *,
    data: str | Dataset | None = None,
    steps: int | None = None,
    allow_module: bool = False,
) -> Training:
    """The run that `save_training` wrote, ready to go on.

    data:  the data, or where they are now; default: where the record says they were
    allow_module: whether the file may name Python code that makes its network, which is then imported and run
    steps: a new total, to train longer (or end sooner); the learning rate then follows the new schedule

    On one CPU the resumed run ends in the very weights of an uninterrupted one.
    Raises FileError for a file without a run to resume, InputError if the data have changed or nothing is left to do.
    """
    average, record, state = load_checkpoint(path, allow_module=allow_module)
    if state is None:
        raise FileError(f"{path}: holds a finished model without training state; nothing to resume from")
    config = read_config(path, record)
    if steps is not None:
        config = replace(config, steps=steps)
    if record["step"] >= config.steps:
        raise InputError(
            f"{path}: {record['step']} steps are done and {config.steps} are asked for in all; "
            f"to train longer give more, for example --updates {2 * record['step']}"
        )
    if not isinstance(data, Dataset):
        try:
            data = load_data(**{**record["data"], **({} if data is None else {"spec": data})})
        except TypeError as e:
            raise FileError(f"{path}: its training record is damaged: it does not say what data are ({e})") from e
    if data.digest != record["data_digest"]:
        raise InputError(
            f"data: {data.name!r} is not what {path} was trained on (it has changed since); "
            "bring back the old data, or train a new model"
        )
    with torch.random.fork_rng(devices=[]):
        denoiser = build(average.config, allow_module=allow_module)
    denoiser.info = average.info
    training = Training(denoiser, data, config, parent=record.get("parent"))
    _restore(path, training, average, state, record["step"])
    training.step, training.seconds = int(record["step"]), float(record["seconds"])
    return training


def read_config(path: str | os.PathLike[str], record: dict[str, Any]) -> TrainConfig:
    """The settings in a training record. Raises FileError where there are none."""
    missing = [key for key in ("config", "data", "data_digest", "step", "seconds") if key not in record]
    if missing:
        raise FileError(f"{path}: its training record lacks {', '.join(missing)}; it cannot be resumed")
    kinds: dict[str, Any] = {"config": dict, "data": dict, "data_digest": str, "step": int, "seconds": (int, float)}
    for key, kind in kinds.items():
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            raise FileError(f"{path}: its training record is damaged: {key} is not what it should be")
    if record["step"] < 0 or not 0 <= record["seconds"] < float("inf"):
        raise FileError(f"{path}: its training record is damaged: it counts {record['step']} steps")
    try:
        return TrainConfig.from_record(record["config"])
    except FileError as e:
        raise FileError(f"{path}: {e}") from e


def resume_command(path: str | os.PathLike[str]) -> str:
    """What to type to go on."""
    name = str(Path(path))
    return f"ncdeploy train --resume {name if name.isprintable() and ' ' not in name else repr(name)}"


def _state(training: Training) -> dict[str, Any]:
    return {
        "weights": {name: tensor.detach().cpu() for name, tensor in training.denoiser.state_dict().items()},
        "optimizer": training.optimizer.state_dict(),
    }


def _restore(
    path: str | os.PathLike[str], training: Training, average: Denoiser, state: dict[str, Any], step: int
) -> None:
    """Weights and moments from the state; the optimiser's settings are those of the config."""
    try:
        training.denoiser.load_state_dict(state["weights"])
        moments = state["optimizer"]["state"]
        for index, parameter in enumerate(p for group in training.optimizer.param_groups for p in group["params"]):
            entry = moments.get(index, {})
            if index in moments and not 1 <= float(entry["step"]) <= step:
                raise ValueError(f"weight {index} was changed in {float(entry['step'])} of {step} steps")
            for name in ("exp_avg", "exp_avg_sq") if index in moments else ():
                if entry[name].shape != parameter.shape:
                    raise ValueError(f"{name} of weight {index} has shape {tuple(entry[name].shape)}")
        groups = training.optimizer.state_dict()["param_groups"]
        training.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        training.ema.denoiser.load_state_dict(average.state_dict())
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as e:
        raise FileError(f"{path}: its training state is damaged ({str(e).splitlines()[0]}); train again") from e
