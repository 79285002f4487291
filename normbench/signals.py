"""Ctrl-C and SIGTERM ask a run to stop at the next step; a second one ends the process at once."""

import signal
from contextlib import contextmanager


class Stopped(BaseException):
    """Raised once the checkpoint is written. Not an Exception: nothing on the way may take it for a failed run."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        return 128 + self.number


class StopRequest:
    """`number`: the signal that came, 0 while none has."""

    def __init__(self):
        self.number = 0

    def __bool__(self):
        return self.number != 0

    def _receive(self, number, frame):
        self.number = number
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def stop_requests():
    """Within the block SIGINT and SIGTERM set the request instead of ending the process."""
    request, before = StopRequest(), {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request._receive)
    except ValueError:  # not the main thread (a notebook's executor, a launcher): signals stay as they are
        pass
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
