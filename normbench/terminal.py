"""What is printed reaches any terminal: where its encoding lacks a character, that is spelt in ASCII."""

import codecs
import os
import sys
from contextlib import contextmanager

SPELT = {
    **{"–": "-", "—": "-", "−": "-", "‑": "-", "·": "-", "±": "+/-", "×": "x", "≥": ">=", "≤": "<=", "→": "->"},
    **{"…": "...", "²": "^2", "‖": "|", "α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "μ": "mu", "σ": "sigma"},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "§": "section ", "\N{NO-BREAK SPACE}": " "},
}


def _spelt(error: UnicodeEncodeError) -> tuple[str, int]:
    lacking = error.object[error.start : error.end]
    others = (character.encode("ascii", "backslashreplace").decode() for character in lacking)
    return "".join(SPELT.get(character, other) for character, other in zip(lacking, others, strict=True)), error.end


codecs.register_error("spelt", _spelt)


@contextmanager
def any_terminal():
    """Within the block standard output and error take every character. A reader that leaves early (`| head`) ends the
    process as the signal would, without a word."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what tests put in their place has no encoding
            stream.reconfigure(errors="spelt")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        raise SystemExit(141) from None
