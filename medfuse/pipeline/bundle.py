"""A bundle in this process: its network and inferer to call, or its whole workflow to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor

from medfuse.bundles import bundle_dir, load_spec
from medfuse.errors import BundleError
from medfuse.inferers import VolumeFusionInferer


@dataclass(frozen=True)
class Fusion:
    """A bundle's network and inferers, ready to call.

    Attributes:
        network: The network with its weights, on its device.
        inferer: For slices and volumes: `inferer(image, network, degradation=..., steps=...)`.
        device: Where the network is.
        weights: The file of its weights.
    """

    network: torch.nn.Module
    inferer: VolumeFusionInferer
    device: torch.device
    weights: Path

    def __call__(
        self, image: Tensor, *, degradation: Mapping[str, Any] | str | None = None, steps: int | None = None
    ) -> Any:
        """Restore and fuse a batch **[B, 2, H, W]** or **[B, 2, X, Y, Z]**; see `FusionInferer`.

        A degradation may be a preset's name.
        """
        spec = load_spec(degradation) if isinstance(degradation, str) else degradation
        with torch.inference_mode():
            return self.inferer(image.to(self.device), self.network, degradation=spec, steps=steps)


def load_fusion(bundle: str = "pet_mri_fusion", *, device: str | torch.device = "cpu") -> Fusion:
    """Load a bundle's network with its weights, and its inferer.

    Raises:
        BundleError: There is no such bundle, or it has no weights.
    """
    root = bundle_dir(bundle)
    weights = require_weights(root / "models" / "model.pt")
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    parser["device"] = torch.device(device)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    return Fusion(network.eval(), parser.get_parsed_content("inferer"), torch.device(device), weights)


def require_weights(path: str | Path) -> Path:
    """Return the path of the weights.

    Raises:
        BundleError: There is no such file: an untrained network gives grey pictures that look plausible.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(
            f"the weights must be a file, got none at models/{path.name}; train the bundle or restore it."
        )
    return path


def run_bundle(bundle: str, **overrides: Any) -> None:
    """Run a bundle's inference in this process, as `python -m monai.bundle run inference` does.

    Args:
        bundle: Name or folder of a bundle.
        overrides: Values of configuration keys, e.g. `dataset_dir`, `output_dir`, `datalist`, `degradation`, `steps`.
    """
    root = bundle_dir(bundle)
    configs = root / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,  # how to log is the caller's affair
        workflow_type="inference",
        bundle_root=str(root),
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
