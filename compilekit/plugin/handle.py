"""What the hooks know of the model. `compilekit.model.Model` is the real thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


class ModelHandle(Protocol):
    """The user's pipeline or module, by the names that recipes use."""

    subject: Any
    is_pipeline: bool

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The components that are modules, by name."""

    def module(self, name: str) -> nn.Module:
        """A component, or a module inside it."""
