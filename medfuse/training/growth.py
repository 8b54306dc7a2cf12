"""A larger network that starts as a smaller one: it gives the same answers until it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medfuse.errors import BundleError


def load_grown(network: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> nn.Module:
    """Load the weights of a smaller `FusionModel` or `VolumeUNet` into a larger one that answers alike.

    Residual blocks that the smaller one does not have, the last of a stage, are the identity: their last convolution is
    0, their other layers stay as they were made; of a `VolumeUNet` they are the last layers at half resolution, and the
    last of all, all 0.
    Input channels that it does not have, the last ones, have weights of 0. The same network takes the weights as they
    are.

    Args:
        network: The larger network.
        weights: A state dict of the smaller one, or its file.

    Returns:
        The network.

    Raises:
        BundleError: It has not all parts of the smaller one, or other widths; it stays as it was.
    """
    state = dict(weights) if isinstance(weights, Mapping) else torch.load(weights, "cpu", weights_only=True)
    whole = {name: part.clone() for name, part in network.state_dict().items()}  # a network that is refused stays
    if unknown := sorted(set(state) - set(whole)):
        raise BundleError(f"A grown network must have all parts of the smaller one, got no {unknown[0]}; add blocks.")
    for name, grown in whole.items():
        part = state.get(name)
        if part is None:
            single = name.startswith(("deep.", "last."))
            if not single and ".blocks." not in name:
                raise BundleError(f"A network must be grown by blocks or input channels, got {name}; keep its levels.")
            if single or ".conv2." in name:
                grown.zero_()
        elif part.shape == grown.shape:
            grown.copy_(part)
        elif name.endswith("stem.weight") and part.shape[0] == grown.shape[0] and part.shape[1] < grown.shape[1]:
            grown.zero_()
            grown[:, : part.shape[1]] = part
        else:
            raise BundleError(
                f"{name} must keep its shape, {list(part.shape)}, got {list(grown.shape)}; keep the widths."
            )
    network.load_state_dict(whole)
    return network
