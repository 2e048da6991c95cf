"""The keywords of `ncdeploy.sample` from one flat dict, for tests that vary one thing of many."""

from dataclasses import fields
from typing import Any

from ncdeploy import SampleOptions

_OPTIONS = {field.name for field in fields(SampleOptions)}


def grouped(**given: Any) -> dict[str, Any]:
    """Those of SampleOptions under options=, labels under conditions=, the rest as they are."""
    rest = {name: value for name, value in given.items() if name not in {*_OPTIONS, "labels"}}
    options = SampleOptions(**{name: value for name, value in given.items() if name in _OPTIONS})
    return {**rest, "options": options, "conditions": {"labels": given.get("labels")}}
