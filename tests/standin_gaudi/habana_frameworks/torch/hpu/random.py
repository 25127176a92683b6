"""Random numbers of the device: those of the CPU."""

import torch


def manual_seed(seed):
    torch.default_generator.manual_seed(int(seed))


manual_seed_all = manual_seed


def get_rng_state(_device=None):
    return torch.default_generator.get_state()


def set_rng_state(state, _device=None):
    torch.default_generator.set_state(state)
