"""Files of ours: written whole or not at all, in UTF-8 whatever the locale."""

import os
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile

from normbench.errors import UserError

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # what stands there is not written through: no link is followed


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Atomically: a reader sees the old file or the new one, whatever happens in between. Folders are made.

    Raises UserError where that cannot be; the old file is then as it was.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    with plainly(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of a process that was killed
        try:
            with open(os.open(part, NEW, 0o666), "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def require_writable(folder: str | Path) -> None:
    """Make a folder, before the work rather than after it. Raises UserError where no file can be written in it."""
    with plainly(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


def checksum(*parts) -> str:
    """The SHA-256 of some bytes one after the other, none of them copied, in hexadecimal digits."""
    found = sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


@contextmanager
def plainly(path):
    """A full disk or a folder that cannot be written is the user's to mend: one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; what was there before is unharmed") from None
