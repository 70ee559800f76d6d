"""Loader processes that end when their parent process has been killed."""
from __future__ import annotations

import functools
import os
import threading
import time
from typing import Any, Callable, Optional

from torch.utils.data import DataLoader

INTERVAL = 1.  # seconds between two checks


def ending_with_their_parent(build_dataloader: staticmethod) -> staticmethod:
    """Wrap a runner's ``build_dataloader``: the loader's processes watch their parent.

    torch's own do too, but a process that then waits for its last batch to be taken waits for ever.
    """
    build: Callable[..., DataLoader] = build_dataloader.__func__

    @functools.wraps(build)
    def build_watching(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        loader = build(dataloader, *args, **kwargs)
        if loader is not dataloader and loader.num_workers > 0:
            loader.worker_init_fn = functools.partial(init_worker, loader.worker_init_fn)
        return loader

    return staticmethod(build_watching)


def init_worker(then: Optional[Callable[[int], None]], worker_id: int) -> None:
    """Start to watch the parent of this process, then call the loader's own ``worker_init_fn``."""
    threading.Thread(target=_exit_without, args=(os.getppid(), ), daemon=True).start()
    if then is not None:
        then(worker_id)


def _exit_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)  # sys.exit would wait for the queue of batches
