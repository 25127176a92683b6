"""Nothing."""

from neuronx_distributed.parallel_layers import parallel_state

__all__ = ["parallel_state"]
