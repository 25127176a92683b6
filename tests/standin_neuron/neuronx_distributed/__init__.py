"""A stand-in for neuronx-distributed, for tests: nothing is parallel."""

from neuronx_distributed import parallel_layers, trace

__all__ = ["parallel_layers", "trace"]
