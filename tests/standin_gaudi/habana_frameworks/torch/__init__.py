"""Importing it makes the device "hpu" known to torch."""

from habana_frameworks.torch import core, hpex, hpu

__all__ = ["core", "hpex", "hpu"]
