"""normbench: which normalization method, at which batch size, and how sure is that?"""

__version__ = "0.1.0"
