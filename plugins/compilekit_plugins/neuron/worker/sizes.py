"""What calls a compiled pipeline covers: it has one size, and no other. Light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CORES = 2
"""The cores of a device, over which a batch can be spread."""


@dataclass(frozen=True)
class Sizes:
    """What was compiled.

    spread: whether the whole pipeline lies on both cores, so that a batch may be twice as large.
    dynamic: whether a batch may be any multiple.
    """

    height: int
    width: int
    batch: int
    images: int
    spread: bool
    dynamic: bool

    def __str__(self) -> str:
        more = " or a multiple" if self.dynamic else f" or {self.batch * CORES}" * self.spread
        return (
            f"height {self.height}, width {self.width}, a batch of {self.batch}{more}, and images "
            f"for each prompt: {self.images}"
        )

    def uncovered(self, said: Mapping[str, Any]) -> str:
        """What of a call's arguments was not compiled for; empty if all was."""
        for name, value in (("height", self.height), ("width", self.width)):
            if said.get(name) not in (None, value):
                return f"{name} {said[name]}"
        prompts, images = _prompts(said), said.get("num_images_per_prompt") or self.images
        if self.dynamic:
            is_covered = prompts * images % (self.batch * self.images) == 0
            return "" if is_covered else f"a batch of {prompts}, images for each prompt: {images}"
        if prompts != self.batch and not (self.spread and prompts == self.batch * CORES):
            return f"a batch of {prompts}"
        return "" if images == self.images else f"images for each prompt: {images}"


def _prompts(said: Mapping[str, Any]) -> int:
    prompt, embeds = said.get("prompt"), said.get("prompt_embeds")
    if isinstance(prompt, list | tuple):
        return len(prompt)
    return 1 if embeds is None else int(embeds.shape[0])
