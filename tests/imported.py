"""What the server of forked.py has in memory before it forks: everything that a training imports, and the patterns."""

from functools import cache

import torch._dynamo  # noqa: F401 - torch's optimizers import it at their first step

import normbench.__main__
import normbench.measures
import normbench.runs.report
import normbench.runs.run
import normbench.runs.sweep  # noqa: F401
from normbench import data

data.LOADERS["patterns"] = cache(data.LOADERS["patterns"])
data.LOADERS["patterns"](None)
