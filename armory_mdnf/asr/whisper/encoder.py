"""Whisper's encoder over utterances of their own lengths, in the module layout of transformers' state dicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.options import option, whole

SIZE = whole(1, 1 << 14)


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of an encoder; the defaults are those of Whisper tiny."""

    n_mels: int = option(80, SIZE)
    d_model: int = option(384, SIZE)
    layers: int = option(4, SIZE)
    heads: int = option(6, SIZE)
    ffn: int = option(1536, SIZE)


def sinusoids(frames: int, channels: int) -> Tensor:
    """Whisper's positions: sines, then cosines, of wavelengths from 2 pi to 10000 * 2 pi. Shape: (frames, channels)."""
    rates = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angles = torch.arange(frames)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class Attention(nn.Module):
    """Self-attention of several heads; ``mask`` (N, 1, 1, F) is true where a frame may be looked at."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projections)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and two linear layers, each behind its layer norm and beside a residual. Shape: (N, F, C) -> same.

    What goes onto the residual passes a dropout, of 0 unless a recipe sets it.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)
        self.self_attn = Attention(sizes.d_model, sizes.heads)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.d_model)
        self.fc1 = nn.Linear(sizes.d_model, sizes.ffn)
        self.fc2 = nn.Linear(sizes.ffn, sizes.d_model)
        self.final_layer_norm = nn.LayerNorm(sizes.d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), mask))
        return x + self.dropout(self.fc2(nn.functional.gelu(self.fc1(self.final_layer_norm(x)))))


class Encoder(nn.Module):
    """Two convolutions, the second of stride 2, sinusoidal positions, and transformer layers.

    Shape: log mel (N, n_mels, F), zero beyond frames (N,) -> (N, F', d_model), frames' (N,). An utterance gets what it
    would get alone, to rounding.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv1 = nn.Conv1d(sizes.n_mels, sizes.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(sizes.d_model, sizes.d_model, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.layer_norm = nn.LayerNorm(sizes.d_model)

    @staticmethod
    def out_frames(frames: Tensor) -> Tensor:
        """Frames that come out for ``frames`` that go in."""
        return (frames - 1) // 2 + 1

    def forward(self, log_mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.gelu(self.conv1(log_mel))
        x = nn.functional.gelu(self.conv2(ragged.zero_beyond(x, frames))).transpose(1, 2)
        frames = self.out_frames(frames)
        mask = None if ragged.is_uniform(frames, x.shape[1]) else ragged.mask(frames, x.shape[1])[:, None, None]
        x = x + sinusoids(x.shape[1], self.sizes.d_model).to(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x), frames
