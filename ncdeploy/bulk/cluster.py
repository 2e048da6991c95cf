"""Ray, where it is installed: a cluster of this process's own, or one that runs already."""

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ncdeploy.errors import BackendError, DependencyError, InputError, install

LOCAL = "local"


def check_ray() -> None:
    """Raise DependencyError without Ray."""
    if find_spec("ray") is None:
        raise DependencyError(f"--ray needs Ray: {install('ray')}")


def start_ray(address: str) -> Any:
    """The package, connected. It tells nobody that it is used, unless the user's environment says it may.

    Raises BackendError where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns of a default that will change
    import ray

    beginning = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **beginning)
    except Exception as e:  # whatever it raises: ConnectionError, RuntimeError, ValueError, errors of gRPC
        raise BackendError(
            f"--ray {address}: no Ray cluster there ({' '.join(str(e).split())[:120]}); start one with "
            "ray start --head, or give --ray local"
        ) from e
    return ray


def check_room(ray: Any, needs: Mapping[str, int]) -> None:
    """Raise InputError for what this machine cannot give one worker, which would be waited for for ever."""
    there = ray.cluster_resources()
    for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if needs[name] > there.get(resource, 0):
            raise InputError(
                f"--ray {LOCAL}: a worker needs {needs[name]} {resource}, Ray finds {there.get(resource, 0):.0f} here; "
                "give fewer --threads, or another --device"
            )
