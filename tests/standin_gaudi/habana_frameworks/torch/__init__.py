"""Importing it makes the device "hpu" known to torch."""

from habana_frameworks.torch import core, hpu

__all__ = ["core", "hpu"]
