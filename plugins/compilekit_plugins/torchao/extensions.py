"""The compiled extensions of torchao: without those that do not fit torch, Python runs instead."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

TALKATIVE = ("torchao", "torch.utils._pytree")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what torchao and torch say while torchao is imported off the terminal."""
    with contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, TALKATIVE):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield


def extensions() -> str:
    """One line: which of them are loaded, or why torchao left them out."""
    import torch
    import torchao

    title = f"torchao {torchao.__version__} with torch {torch.__version__}"
    if getattr(torchao, "skip_loading_so_files", False):
        why = getattr(torchao, "_skip_reason", None) or "they do not fit this torch"
        return f"{title}: left out: {why}"
    files = sorted(file.name for file in Path(torchao.__file__).parent.glob("_C*.so"))
    loaded = {Path(file).name for file in torch.ops.loaded_libraries}
    missing = [name for name in files if name not in loaded]
    if missing:
        return f"{title}: not loaded: {', '.join(missing)}; its Python code runs in their place"
    return f"{title}: loaded: {', '.join(files) or 'there are none'}"
