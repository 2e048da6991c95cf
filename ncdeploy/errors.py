"""Every error ncdeploy raises on purpose.

NcdeployError                 catch this one to catch them all; the command line turns it into one line
├── InputError                a value the caller gave is wrong (also a ValueError)
├── FileError                 a file is missing, truncated, foreign, unsafe or cannot be written
├── DependencyError           an optional package or library is missing; the text has the line that installs it
├── BackendError              a runtime refused a graph, a provider or an input
│   └── OutOfMemoryError      a device has too little memory for a batch; a smaller window or batch may fit
├── BusyError                 a server has too much to do; later, or with more time, it would have been done
├── ParityError               two models that should agree do not
└── NumericalError            the network returned NaN or infinity

Warnings are NcdeployWarning.
A message says what happened, what was expected, and what to do.
"""


class NcdeployWarning(UserWarning):
    """Something was done as asked, and the result may not be what the user expects."""


class NcdeployError(Exception):
    """Base of all errors that ncdeploy raises on purpose."""


class InputError(NcdeployError, ValueError):
    """A value given by the caller is wrong: a shape, a dtype, an option, a name."""


class FileError(NcdeployError):
    """A file is missing, truncated, of a foreign format, unsafe to open or not writable."""


class DependencyError(NcdeployError):
    """An optional package is not installed. The message carries the line that installs it."""


class BackendError(NcdeployError):
    """A runtime (PyTorch, ONNX Runtime, TensorRT) refused a graph, a provider or an input."""


class OutOfMemoryError(BackendError):
    """A device has too little memory for a batch. A smaller window or batch may fit."""


class BusyError(NcdeployError):
    """A server has too much to do for this request now. The same one may be taken later."""


class ParityError(NcdeployError):
    """Two models that should compute the same do not."""


class NumericalError(NcdeployError):
    """The network returned NaN or infinity. The message names the node and its sigma."""


def install(extra: str) -> str:
    """What to type for the packages of an extra of pyproject.toml: no package index has ncdeploy itself."""
    return f"pip install -c constraints.txt '.[{extra}]' in ncdeploy's checkout, or 'FILE.whl[{extra}]' of its wheel"
