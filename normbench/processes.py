"""Several processes that share each batch: `torchrun --nproc-per-node=K -m normbench …`."""

import os
import pickle
from contextlib import suppress
from dataclasses import dataclass

from normbench.errors import UserError


def first() -> bool:
    """Whether this process is the one that speaks: torchrun's first, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def launched() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train one network together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return flag
        import torch
        from torch import distributed

        word = torch.tensor([int(flag)])
        distributed.all_reduce(word, group=_control())
        return bool(word)

    def share(self, value):
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, group=_control())
        return box[0]

    def in_first(self, work):
        """What `work()` returns in the first process, in every process; so it is with what it raises."""
        value = error = None
        if self.first:
            try:
                value = work()
            except Exception as raised:
                error = raised
        value, failure = self.share((value, None if self.count == 1 else _sent(error)))
        if error or failure:
            raise error or failure
        return value

    def average_(self, tensor):
        """The mean of a tensor over processes, in place."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
            tensor /= self.count
        return tensor


def _sent(error: Exception | None) -> Exception | None:
    """The error as it can travel: of its own type if that takes a line of text."""
    if error is None:
        return None
    for kind in (type(error), UserError if isinstance(error, UserError) else RuntimeError):
        with suppress(Exception):
            return pickle.loads(pickle.dumps(kind(str(error))))


ALONE = Processes()
_control_group = None


def _control():
    """Control words travel over gloo, whatever carries the gradients: they need no device."""
    return _control_group


def join(device: str) -> tuple[Processes, str]:
    """Meet the other processes of torchrun, if any. Returns this process's place and its own device."""
    global _control_group
    if launched() == 1:
        return Processes(), device
    import torch
    from torch import distributed

    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.startswith("cuda"):
        device = f"cuda:{local % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        # NCCL refuses two processes on one GPU.
        own_gpu = device != "cpu" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
        distributed.init_process_group("nccl" if own_gpu else "gloo")
        _control_group = distributed.new_group(backend="gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size()), device


def leave() -> None:
    if launched() == 1:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
