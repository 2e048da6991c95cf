"""NumPy arrays and torch tensors alike: the array-API namespace of an array, its device, its way to the host."""

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray


def namespace(array: Any) -> Any:
    """The array-API functions for an array; NumPy itself, where wrappers would cost more than the work."""
    return np if isinstance(array, np.ndarray | np.generic) else array_namespace(array)


def device_of(array: Any) -> Any:
    """The device of an array, None where the library has no such notion."""
    return getattr(array, "device", None)


def to_host(array: Any) -> NDArray[Any]:
    """An array of any library and device as a NumPy array."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)
