"""The denoiser: a small U-Net, conditioned on time and on the degradations, that works at half resolution.

It is built for CPU as much as for GPU: the input is folded 2 x 2 into channels (pixel unshuffle), widths are multiples
of 32, and every layer is a plain convolution in channels-last layout, so that bfloat16 runs on matrix units. Each
normalization works over the channels of one pixel: tiles, crops and skipped margins agree with the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medfuse.diffusion.answers import OUT_CHANNELS
from medfuse.diffusion.features import CHANNELS, CONDITION


class PixelNorm(nn.Module):
    """Layer normalization over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` **[B, C, H, W]**."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), [self.channels], self.weight.to(x.dtype), self.bias.to(x.dtype))
        return y.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; the condition scales and shifts between them (FiLM)."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.normal_(self.conv2.weight, std=1e-3)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Transform `x` **[B, C, H, W]** under `embedding` **[B, E]**."""
        h = self.conv1(self.norm(x))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        kept = torch.is_grad_enabled()  # what a gradient needs is not written on; else room is used again
        change: Tensor = self.conv2(F.silu(torch.addcmul(shift, h, 1 + scale), inplace=not kept))
        return x + change if kept else change.add_(x)


class Stage(nn.Module):
    """Residual blocks of one level, one after another."""

    def __init__(self, channels: int, blocks: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding) for _ in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Transform `x` **[B, C, H, W]** under `embedding` **[B, E]**."""
        for block in self.blocks:
            x = block(x, embedding)
        return x


def _reach(encoder_blocks: Sequence[int], decoder_blocks: Sequence[int]) -> int:
    """Return how far, in pixels, beyond a part of an image the network looks for its output there.

    The edges of the part are multiples of what the network folds together. Followed backwards: up the decoder the
    distance halves from level to level, down the encoder it doubles, and each block adds its two 3 x 3 convolutions.
    """
    distance = 1  # the head
    for blocks in decoder_blocks:
        distance = -(-(distance + 2 * blocks) // 2)
    distance += 2 * encoder_blocks[-1]
    for blocks in reversed(encoder_blocks[:-1]):
        distance = 2 * distance + 2 * blocks
    return 2 * (distance + 1)  # the stem, at half resolution


class FusionUNet(nn.Module):
    """Time- and degradation-conditioned U-Net for any H x W.

    What it sees is named in `medfuse.diffusion.features` (12 channels, 25 conditions), what it answers in
    `medfuse.diffusion.answers` (6 channels).
    """

    in_channels = len(CHANNELS)
    out_channels = OUT_CHANNELS

    def __init__(
        self,
        widths: Sequence[int] = (64, 96, 128, 128),
        encoder_blocks: Sequence[int] = (1, 1, 2, 2),
        decoder_blocks: Sequence[int] = (2, 1, 2),
        condition_features: int = len(CONDITION),
        embedding: int = 128,
    ) -> None:
        """Make a network.

        Args:
            widths: Channels of each level, from half resolution downwards.
            encoder_blocks: Residual blocks of each level on the way down.
            decoder_blocks: The same of each level but the last, on the way up.
            condition_features: Length of the condition vector.
            embedding: Width of its embedding.
        """
        super().__init__()
        self.multiple = 2 ** len(widths)
        self.reach = _reach(encoder_blocks, decoder_blocks)
        self.condition_features = condition_features
        self.embed = nn.Sequential(nn.Linear(condition_features, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(4 * self.in_channels, widths[0], 3, padding=1)
        *levels, middle = [Stage(w, n, embedding) for w, n in zip(widths, encoder_blocks, strict=True)]
        self.encoder = nn.ModuleList(levels)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = middle
        # on the way up, so from the lowest level
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for b, a in pairwise(reversed(widths)))
        self.decoder = nn.ModuleList(
            reversed([Stage(w, n, embedding) for w, n in zip(widths[:-1], decoder_blocks, strict=True)])
        )
        self.head = nn.Conv2d(widths[0], 4 * self.out_channels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.normal_(parameter, std=1e-4)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict residuals, fusion weight and log-variances.

        Args:
            image: **[B, 12, H, W]**.
            condition: **[B, condition_features]**; zeros where absent.

        Returns:
            **[B, 6, H, W]**.
        """
        if condition is None:
            condition = image.new_zeros(len(image), self.condition_features)
        height, width = image.shape[-2:]
        pad_h, pad_w = -height % self.multiple, -width % self.multiple
        if pad_h > 0 or pad_w > 0:
            image = F.pad(image, [0, pad_w, 0, pad_h], mode="replicate")
        embedding = F.silu(self.embed(condition))
        h = self.stem(F.pixel_unshuffle(image.contiguous(memory_format=torch.channels_last), 2))
        skips: list[Tensor] = []
        for stage, down in zip(self.encoder, self.down):  # noqa: B905 (TorchScript knows no `strict`)
            h = stage(h, embedding)
            skips.append(h)
            h = down(h)
        h = self.middle(h, embedding)
        for up, stage in zip(self.up, self.decoder):  # noqa: B905
            h = stage(skips.pop() + F.pixel_shuffle(up(h), 2), embedding)
        return F.pixel_shuffle(self.head(h), 2)[..., :height, :width]
