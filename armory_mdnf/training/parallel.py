"""Several processes that train one model, as ``torchrun`` starts them.

Each draws batches of its own and all take the same step, on the mean of their gradients: a step sees as many times the
audio as there are processes. Batch norm's running statistics are those of the first process, which alone evaluates,
logs and saves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Workers:
    """This process among ``size`` of them. One alone needs no ``torchrun``."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> tuple[Workers, str]:
        """Meet the other processes, if there are any. Returns the device too: on CUDA, one GPU a process."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(), device
        cuda = device.startswith("cuda")
        if cuda:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if cuda else "gloo")
        return cls(dist.get_rank(), dist.get_world_size()), device

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, logs and saves."""
        return self.rank == 0

    def key(self, *numbers: int) -> list[int]:
        """Seed for this process; the first one's is what a process alone has."""
        return [*numbers] if self.first else [*numbers, 1000 + self.rank]

    def average_gradients(self, module: torch.nn.Module) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.size

    def leave(self) -> None:
        """Wait for the others, and part."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
