"""The GPU of each rank: one of its own, and one that computes in the precision asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from launcher.distributed.comm import Comm
from launcher.errors import UserError


def check_own_gpu(comm: Comm, device: torch.device) -> None:
    """Raise UserError on every rank when two ranks compute on the same GPU. A collective, of ranks that have GPUs."""
    if device.type == "cuda" and comm.world.size > 1:
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        check_distinct(comm.all_gather_object(uuid), comm.hosts)


def check_distinct(gpus: Sequence[str], hosts: Sequence[str]) -> None:
    """`gpus`: the id of the GPU that each rank computes on, the same id on every rank that sees it. `hosts`: its node.

    A rank that sees a single GPU, as under `srun --gpus-per-task=1`, cannot know whether the others see the same one.
    """
    shared = next((host for gpu, host in zip(gpus, hosts, strict=True) if gpus.count(gpu) > 1), None)
    if shared is None:
        return
    here = [gpu for gpu, host in zip(gpus, hosts, strict=True) if host == shared]
    num_gpus = len({*here})
    advice = f"start with --num_processes {num_gpus}, give each srun task a GPU of its own, or set strategy.device=cpu"
    raise UserError(f"{len(here)} processes on {shared} but {num_gpus} GPUs: {advice}")


def find_slow_bf16(precision: str, device: torch.device) -> tuple[str, ...]:
    """A note when the GPU has no units for bf16: it is then computed in steps, far slower than float32."""
    if precision != "bf16" or device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return ()
    name = torch.cuda.get_device_name(device)
    return (f"strategy.precision is bf16, which {name} only emulates, slowly: fp16 is faster there, so is no",)
