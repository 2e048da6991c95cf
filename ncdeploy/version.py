"""The version of this library, of its wheel, and of the C++ SDK beside it."""

__version__ = "0.1.0"
