"""checkpoint.pt: what torch writes, and a line below it that says of which run it is and what it must read."""

import io
import re
import zipfile
from hashlib import sha256

SIGNED = re.compile(rb"\nnormbench checkpoint of (.+) sha256 ([0-9a-f]{64})\n\Z")
LINE_BYTES = 1000  # at most: a name of a run is shorter than that of a file


class Unfit(Exception):
    """A checkpoint that nothing can go on from; `str(error)` says why."""


def packed(state: dict, run: str) -> bytes:
    """The content of the file. run: the name of its folder. `torch.load` reads it too: it ignores what follows."""
    import torch  # what is only looked at does without

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content, name = buffer.getvalue(), run.encode()
    return content + b"\nnormbench checkpoint of %b sha256 %b\n" % (name, _checksum(content, name))


def unpacked(content: bytes, run: str) -> dict:
    """The state in a file's content: tensors and plain values only. Raises Unfit for a damaged one, or another run's.

    One of an earlier version has no such line: the checksums that a zip archive has itself stand for it.
    """
    if line := SIGNED.search(content, max(0, len(content) - LINE_BYTES)):
        content = content[: line.start()]
        if _checksum(content, line[1]) != line[2]:
            raise Unfit("damaged")
        if line[1] != run.encode():
            raise Unfit(f"of another run, {line[1].decode(errors='replace')}")
    import torch

    try:
        if not line and zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:
            raise Unfit("damaged")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever zipfile, torch and its unpickler stumble on
        raise Unfit("damaged") from error


def _checksum(content: bytes, name: bytes) -> bytes:
    return sha256(name + content).hexdigest().encode()
