"""Looking at what a pipeline reads of an adapter's file, before it does anything with it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

State = dict[str, Any]


@contextlib.contextmanager
def looked_at(pipeline: Any, look: Callable[[State], State]) -> Iterator[None]:
    """Let `look` see each state dict that the pipeline reads, and say what it gets of it.

    Only so are names and scales those that the pipeline itself makes of a file, whoever wrote it:
    a state dict that is passed to `load_lora_weights` has lost its scales.
    """
    read = pipeline.lora_state_dict

    def looking(*args: Any, **kwargs: Any) -> Any:
        answer = read(*args, **kwargs)
        if not isinstance(answer, tuple):
            return look(answer)
        state, *rest = answer
        return (look(state), *map(_without_dropout, rest))

    pipeline.lora_state_dict = looking
    try:
        yield
    finally:
        del pipeline.lora_state_dict


def _without_dropout(metadata: Any) -> Any:
    """What a file says of its training, less the dropout.

    diffusers leaves it on, so that each picture is another one, and swaps no adapter for one that
    was trained with less or more of it.
    """
    if not isinstance(metadata, dict):
        return metadata
    return {k: 0.0 if k.endswith(".lora_dropout") else value for k, value in metadata.items()}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what the libraries log, draw and warn of: what matters is said elsewhere."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers: list[Any] = [diffusers_logging, transformers_logging]
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        for logger in loggers:
            stack.callback(logger.set_verbosity, logger.get_verbosity())
            logger.set_verbosity(logger.CRITICAL)
        if transformers_logging.is_progress_bar_enabled():
            stack.callback(transformers_logging.enable_progress_bar)
        transformers_logging.disable_progress_bar()
        # Of peft: that there are to be several adapters is meant.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        yield
