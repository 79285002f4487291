"""Normalization methods: a family a file (docs/methods.md lists them), the layers that all start from in plain.

method.py says what a method may replace, and its life; methods.py is the table NORMS; factory.py what models ask for
their layers; convert.py puts a method into other people's models; fold.py makes batch normalization part of the layers
before it. What is known of a method without its layers stands in normbench/facts.py.
"""

from normbench.norms.convert import convert_norms
from normbench.norms.factory import ACTIVATIONS, Layers
from normbench.norms.fold import fold
from normbench.norms.method import Method
from normbench.norms.methods import NORMS, get_method

__all__ = ["ACTIVATIONS", "NORMS", "Layers", "Method", "convert_norms", "fold", "get_method"]
