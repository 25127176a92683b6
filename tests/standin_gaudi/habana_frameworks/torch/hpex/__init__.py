"""Fused operations of the device, as plain ones."""

import torch

_library = torch.library.Library("hpu", "DEF")
_library.define(
    "rotary_pos_embedding(Tensor x, Tensor sin, Tensor cos, Tensor? positions, int offset, "
    "int mode) -> Tensor"
)


def _rotated(x, sin, cos, positions, offset, mode):
    # Mode 1: neighbours are the real and the imaginary part of a number.
    assert (positions, offset, mode) == (None, 0, 1)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


_library.impl("rotary_pos_embedding", _rotated, "CompositeImplicitAutograd")
