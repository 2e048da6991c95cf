"""Plain weights from .safetensors files and PyTorch files, without executing anything.

Training scripts leave weights in wrappers: under a key ("state_dict", "ema", beside an optimizer and counters), and
with a prefix to every name ("module.", "_orig_mod.", "model."). Both are found by where the names of the network are.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ncdeploy.denoisers.factory import without_memory
from ncdeploy.denoisers.safetensors_file import is_safetensors, read_tensors
from ncdeploy.denoisers.torchfile import read_torch
from ncdeploy.errors import FileError, InputError
from ncdeploy.files import regular_file

DEPTH = 3  # of dicts inside each other
N = TypeVar("N", bound=nn.Module)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of a .safetensors file or a PyTorch file; as `find_weights` of an unknown network."""
    return find_weights(path)[0]


def find_weights(
    path: str | os.PathLike[str], names: Collection[str] = (), *, key: str | None = None, strip: str | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Name -> tensor on the CPU, of a .safetensors file or of what `torch.save` wrote; and what is to be said of it.

    names: of the network, or some that it surely has
    key:   where the weights stand in the file, "ema" or "model.state"; None = where those names are
    strip: the prefix that is taken off their names; None = what stands before those names
    Where names stand twice, averaged weights, by the word ema, are preferred.

    Raises FileError for a file that is missing, damaged, holds anything but tensors and numbers, or could run code;
    InputError for a key or prefix that is not there, and where several are possible.
    """
    content = _content(path)
    held = dict(_state_dicts(content))
    if not held:
        holds = ", ".join(map(str, list(content)[:5]))[:100] if isinstance(content, Mapping) else type(content).__name__
        raise FileError(f"{path}: is not a state dict, name -> tensor; it holds {holds or 'nothing'}")
    if key is not None and key not in held:
        raise InputError(f"key: {path} has no weights under {key!r:.80}; it has: {_listed(map(repr, held))}")
    places = [
        (where, prefix) for where in (held if key is None else [key])
        for prefix in (_prefixes(held[where], names) if strip is None else [strip])
        if all(prefix + name in held[where] for name in names)
    ]  # fmt: skip
    if not places and len(held) > 1 and key is None:
        raise InputError(f"key: {path} has weights in several places; choose with --key: {_listed(map(repr, held))}")
    if not places:  # which of them does not fit is for the caller to say
        places = [(key if key is not None else next(iter(held)), strip or "")]
    # Dotted and underscored words: "ema", "model_ema", "ema_model."
    averaged = [re.split(r"[._]", ".".join(place).lower()).count("ema") for place in places]
    if len(places) > 1 and averaged.count(max(averaged)) > 1:
        ways = (f"--key {where!r:.80} --strip {prefix!r:.80}" for where, prefix in places)
        raise InputError(f"key, strip: {path} has such weights in several places; choose: {_listed(ways, ' or ')}")
    where, prefix = places[averaged.index(max(averaged))]
    tensors = held[where]
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not weights:
        raise InputError(
            f"strip: no weight of {path} begins with {prefix!r:.80}; they are: {_listed(map(repr, tensors))}"
        )
    return weights, _notes(where, prefix, len(tensors) - len(weights), [p for p in places if p != (where, prefix)])


def read_beside(path: str | os.PathLike[str], key: str) -> dict[str, Any]:
    """Plain values by name that a PyTorch file keeps beside its weights, such as "hyper_parameters"; {} without any."""
    content = _content(path)
    kept = content.get(key) if isinstance(content, Mapping) else None
    return dict(kept) if isinstance(kept, Mapping) else {}


def _content(path: str | os.PathLike[str]) -> Any:
    file = regular_file(path, "expected weights as .safetensors, .pt or .bin")
    if is_safetensors(file):
        return read_tensors(file)[0]
    if file.suffix == ".safetensors":
        raise FileError(f"{path}: is not a safetensors file, whatever its name says; copy it again")
    return read_torch(path)


def _state_dicts(content: Any, where: str = "", depth: int = 0) -> list[tuple[str, dict[str, Tensor]]]:
    """Every dict of names to tensors, and to numbers and texts that are left out, by the dotted key it stands under."""
    if not isinstance(content, Mapping) or depth > DEPTH or not all(isinstance(name, str) for name in content):
        return []
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    others = [value for value in content.values() if not isinstance(value, (Tensor, bool, int, float, str, np.generic))]
    if tensors and all(value is None for value in others):
        return [(where, tensors)]
    inner = ((f"{where}.{name}" if where else name, value) for name, value in content.items())
    return [found for name, value in inner for found in _state_dicts(value, name, depth + 1)]


def _prefixes(tensors: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """What may stand before the names of the network: "" where it is not known."""
    probe = max(names, key=len, default="")
    before = {name.removesuffix(probe) for name in tensors if probe and name.endswith(probe)}
    return sorted(prefix for prefix in before if not prefix or prefix.endswith(".")) or [""]


def _notes(where: str, prefix: str, left: int, others: list[tuple[str, str]]) -> tuple[str, ...]:
    said = [f"under {where!r:.80}"] if where else []
    said += [f"without the prefix {prefix!r:.80}"] if prefix else []
    said += [f"{left} other tensors are left out"] if left else []
    said += [f"those of {'.'.join(filter(None, place))!r:.80} are left out" for place in others]
    return (f"the weights were found {', '.join(said)}",) if said else ()


def _listed(names: Iterable[str], between: str = ", ") -> str:
    first = [name[:200] for name in names]
    return between.join(first[:5]) + (" ..." if len(first) > 5 else "")


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


def filled(
    make: Callable[[], N],
    weights: Mapping[str, Tensor],
    source: str | os.PathLike[str],
    inside: Callable[[N], nn.Module] = lambda network: network,
) -> N:
    """What `make` makes, with the weights in it or in the part of it that `inside` names.

    What damaged settings claim is not allocated before the weights are found to fit. Raises as `check_weights` does.
    """
    with without_memory(len(weights)):
        check_weights(inside(make()), weights, source)
    with torch.random.fork_rng(devices=[]):  # initial weights, replaced below, must not disturb the caller
        network = make()
    put_weights(inside(network), weights, source)
    return network
