"""The processes that torchrun or accelerate started for one command, as they share the work on a list among them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from ..session import PROCESSES

LONGEST = timedelta(days=30)  # that one process waits for the others


class ProcessGroup:
    """A context manager: this process among ``size`` of them; number 0 leads. One process alone needs no torch here."""

    def __init__(self) -> None:
        self.size = PROCESSES
        self.rank = int(os.environ.get("RANK", "0")) if self.size > 1 else 0
        self._ours = False

    @property
    def leads(self) -> bool:
        """Whether this process is the one that decides, prints and writes the result."""
        return self.rank == 0

    def __enter__(self) -> ProcessGroup:
        if self.size > 1:
            import torch.distributed as together

            if not together.is_initialized():
                together.init_process_group("gloo", timeout=LONGEST)
                self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            import torch.distributed as together

            together.destroy_process_group()

    def told(self, thing: Any) -> Any:
        """What the leader has as ``thing``, in every process."""
        if self.size == 1:
            return thing
        import torch.distributed as together

        things = [thing]
        together.broadcast_object_list(things, src=0)
        return things[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            import torch.distributed as together

            together.barrier()

    def device(self, device: str) -> str:
        """A GPU of its own for each process, where ``device`` is "auto" and there are several."""
        if self.size == 1 or device != "auto":
            return device
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % count}" if count else "cpu"
