"""Fused norms."""

import torch


class FusedRMSNorm:
    @staticmethod
    def apply(x, weight, eps, *_modes):
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, eps)
