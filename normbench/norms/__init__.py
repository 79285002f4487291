"""Normalization methods: a family a file (batch, sample, weight), the layers that all start from in plain.

facts.py says what is known of each without torch; method.py what a method may replace, and its life; methods.py is the
table NORMS; factory.py what models ask for their layers; convert.py puts a method into other people's models.
Importing this package takes no torch: what needs it is loaded when it is asked for.
"""

from importlib import import_module

_HOMES = {
    "ACTIVATIONS": "factory",
    "Layers": "factory",
    "Method": "method",
    "NORMS": "methods",
    "get_method": "methods",
    "convert_norms": "convert",
}

__all__ = ["ACTIVATIONS", "NORMS", "Layers", "Method", "convert_norms", "get_method"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
