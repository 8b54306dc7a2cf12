"""Where to compute: one rule for the command line, Python and the bundles' configurations."""

from __future__ import annotations

import torch

from medfuse.errors import BundleError


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device to compute on, after a number has been there and back.

    Args:
        name: `auto` (CUDA where there is one, else the CPU), or any device of torch: `cpu`, `cuda`, `cuda:1`.

    Raises:
        BundleError: There is no such device on this machine.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        raise BundleError(
            f"device must be auto, or one of this machine such as cpu or cuda:0, got {str(name)!r}; use auto."
        ) from error
    return device
