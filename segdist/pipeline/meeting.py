"""How the processes of a training group on a cluster of our own find each other: by a file, which only its user sees.

Usually the first opens a port (torch's TCPStore), on every address of the machine and to everybody.
"""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from segdist.pipeline.own_cluster import SESSION


class MeetingOverFile(TorchConfig):
    """For a group whose processes are all on this machine."""

    @property
    def backend_cls(self) -> type:
        """What Ray calls around a group's life."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        file = Path(os.environ[SESSION], f"meeting-{uuid4().hex}")  # a group that is started again meets anew
        worker_group.execute(_set_torch_distributed_env_vars)
        joined = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=file.as_uri(),
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joined)
