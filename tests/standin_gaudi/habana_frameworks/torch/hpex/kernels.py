"""Fused attention."""

import torch


class FusedSDPA:
    @staticmethod
    def apply(query, key, value, mask=None, dropout=0.0, is_causal=False, scale=None, *_modes):
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale
        )
