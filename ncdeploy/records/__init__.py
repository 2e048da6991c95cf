"""Records: the JSON objects in which files say what they are. `fields` is the table of each, `strictjson` the text."""

from ncdeploy.records.fields import REQUIRES, Field, Kind, about, check, read, read_format, required, table
from ncdeploy.records.strictjson import parse

__all__ = ["REQUIRES", "Field", "Kind", "about", "check", "parse", "read", "read_format", "required", "table"]
