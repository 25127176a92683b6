"""The device: `torch.hpu`. In lazy mode it has graphs, else it has `hpu_backend`."""

import contextlib
import sys

import torch

from habana_frameworks.torch import standin
from habana_frameworks.torch.hpu import backend, metrics, random
from habana_frameworks.torch.hpu.random import (
    get_rng_state,
    manual_seed,
    manual_seed_all,
    set_rng_state,
)

__all__ = ["get_rng_state", "manual_seed", "manual_seed_all", "metrics", "random", "set_rng_state"]

if standin.LAZY:
    from habana_frameworks.torch.hpu import graphs
    from habana_frameworks.torch.hpu.graphs import HPUGraph, wrap_in_hpu_graph

    __all__ += ["HPUGraph", "graphs", "wrap_in_hpu_graph"]
else:
    backend.register()


def is_available():
    return True


def device_count():
    return 1


def current_device():
    return 0


def set_device(_device):
    pass


def get_device_name(_device=None):
    return standin.device_name()


def synchronize(_device=None):
    pass


def init():
    pass


def is_initialized():
    return True


def is_autocast_hpu_enabled():
    return torch.is_autocast_enabled("hpu")


def is_bf16_supported():
    return True


def _is_in_bad_fork():
    return False


class Stream:
    def synchronize(self):
        pass

    def wait_stream(self, _other):
        pass


class Event:
    def __init__(self, *_args, **_kwargs):
        pass

    def record(self, _stream=None):
        pass

    def synchronize(self):
        pass


def current_stream(_device=None):
    return Stream()


default_stream = current_stream


@contextlib.contextmanager
def stream(_stream):
    yield


def memory_allocated(_device=None):
    return 0


max_memory_allocated = memory_allocated


def reset_peak_memory_stats(_device=None):
    pass


def empty_cache():
    pass


torch._register_device_module("hpu", sys.modules[__name__])
standin.OnCpu().__enter__()
if standin.LAZY:
    standin.Lazily().__enter__()
