"""Plain weights from .safetensors files and PyTorch files, without executing anything."""

import os
from collections.abc import Mapping

from torch import Tensor, nn

from ncdeploy.denoisers.safetensors_file import is_safetensors, read_tensors
from ncdeploy.denoisers.torchfile import read_torch
from ncdeploy.errors import FileError
from ncdeploy.files import regular_file


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of a .safetensors file or of a file that `torch.save` made of a state dict.

    Raises FileError for a file that is missing, damaged, holds anything but tensors, or could run code.
    """
    file = regular_file(path, "expected weights as .safetensors, .pt or .bin")
    if is_safetensors(file):
        return read_tensors(file)[0]
    if file.suffix == ".safetensors":
        raise FileError(f"{path}: is not a safetensors file, whatever its name says; copy it again")
    found = read_torch(path)
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        holds = ", ".join(map(str, list(found)[:5]))[:60] if isinstance(found, Mapping) else type(found).__name__
        raise FileError(f"{path}: is not a state dict, name -> tensor; it holds {holds}")
    return {str(name): tensor for name, tensor in found.items()}


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Raise FileError, which names the first misfit, unless every name and shape fits; the network may be on "meta"."""
    wanted = network.state_dict()
    for name in sorted(set(wanted) ^ set(weights)):
        problem = "lacks the weight" if name in wanted else "has a weight that the network does not know,"
        raise FileError(f"{source}: {problem} {name[:100]!r}; weights and network do not belong together")
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise FileError(
                f"{source}: the weight {name!r} has shape {tuple(weights[name].shape)}, the network wants "
                f"{tuple(tensor.shape)}; weights and network do not belong together"
            )


def put_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Load the weights, as float32 where they are in half precision. Raises FileError as `check_weights` does."""
    check_weights(network, weights, source)
    wanted = network.state_dict()
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()})
