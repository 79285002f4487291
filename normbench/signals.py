"""Ctrl-C, SIGTERM and SIGHUP ask a run to stop at the next step; a second one ends the process at once."""

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


def stopping() -> list[int]:
    """The signals that stop what is under way; SIGHUP unless it is ignored, as under `nohup`."""
    hang_up = [number for number in (getattr(signal, "SIGHUP", None),) if number is not None]
    return [signal.SIGINT, signal.SIGTERM, *(n for n in hang_up if signal.getsignal(n) is not signal.SIG_IGN)]


def leave_alone() -> None:
    """Nothing stops this process, except within `stop_requests`."""
    for number in stopping():
        signal.signal(number, _nothing)


def _nothing(number, frame):
    """Not SIG_IGN: what was ignored from the start shows as such."""


@contextmanager
def stop_requests():
    """Within the block a signal sets the request instead of ending the process. One that nobody there has raised
    Stopped for is raised at the end: what was done by then stands, and what would come next does not begin."""
    request, before = StopRequest(), {}
    try:
        for number in stopping():
            before[number] = signal.signal(number, request._receive)
    except ValueError:  # not the main thread (a notebook's executor, a launcher): signals stay as they are
        pass
    try:
        yield request
    except Exception as error:
        if request:
            raise Stopped(request.number) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request:
        raise Stopped(request.number)
