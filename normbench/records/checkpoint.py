"""checkpoint.pt: what torch writes, and a line below it that says of which run it is and what it must read."""

import io
import re
import zipfile

from normbench.records.files import checksum

SIGNED = re.compile(rb"\nnormbench checkpoint of (.+) sha256 ([0-9a-f]{64})\n\Z")
LINE_BYTES = 1000  # at most: a name of a run is shorter than that of a file


class Unfit(Exception):
    """A checkpoint that nothing can go on from; `str(error)` says why."""


def packed(state: dict, run: str) -> bytes:
    """The content of the file. run: the name of its folder. `torch.load` reads it too: it ignores what follows."""
    import torch  # what is only looked at does without

    buffer, name = io.BytesIO(), run.encode()
    torch.save(state, buffer)
    with buffer.getbuffer() as content:  # as large as the networks: not to be copied
        found = checksum(name, content)
    buffer.seek(0, io.SEEK_END)
    buffer.write(b"\nnormbench checkpoint of %b sha256 %b\n" % (name, found.encode()))
    return buffer.getvalue()


def unpacked(content: bytes, run: str) -> dict:
    """The state in a file's content: tensors and plain values only. Raises Unfit for a damaged one, or another run's.

    One of an earlier version has no such line: the checksums that a zip archive has itself stand for it.
    """
    if line := SIGNED.search(content, max(0, len(content) - LINE_BYTES)):
        content = content[: line.start()]
        if checksum(line[1], content) != line[2].decode():
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
