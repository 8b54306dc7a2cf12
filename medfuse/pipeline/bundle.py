"""A bundle in this process: its network and inferer to call, or its whole workflow to run."""

from __future__ import annotations

import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor

from medfuse.bundles import DEFAULT_BUNDLE, bundle_dir, check_overlays, load_spec
from medfuse.bundles.lint import foreign_code
from medfuse.devices import pick_device
from medfuse.diffusion import FusionModel
from medfuse.diffusion.export import export_network
from medfuse.errors import BundleError, nearest
from medfuse.fusion import fusion_rule as require_rule
from medfuse.inferers import FusionInferer
from medfuse.io.contents import contents

_logger = logging.getLogger(__name__)
_UNKNOWN = ("another file", "restore them")
_FINISHED = "_finished_"  # key of a configuration that holds the values that are none of its language


class _Finished:
    """Values by number. MONAI's parser reads texts, mappings and lists; into an object like this it does not look."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []

    def __getitem__(self, number: int) -> Any:
        return self.items[number][1]


@dataclass(frozen=True)
class Fusion:
    """A bundle's network and inferers, ready to call.

    Attributes:
        network: The network with its weights, on its device.
        inferer: For slices and volumes: `inferer(image, network, degradation=..., steps=...)`.
        device: Where the network is.
        weights: The file of its weights.
        bundle: Name or folder of the bundle, whose presets come first.
        color: Whether source 1 of an image pair may be in colour.
    """

    network: torch.nn.Module
    inferer: FusionInferer
    device: torch.device
    weights: Path
    bundle: str = DEFAULT_BUNDLE
    color: bool = False

    def __call__(
        self,
        image: Tensor,
        *,
        degradation: Mapping[str, Any] | str | None = None,
        steps: int | None = None,
        misfit: bool = False,
        agreement: bool = False,
        save_intermediates: bool = False,
        intermediate_steps: int = 1,
    ) -> Any:
        """Restore and fuse a batch **[B, 2, H, W]** or **[B, 2, X, Y, Z]**; see `FusionInferer`.

        A degradation may be a preset's name. What comes back may be written on, as MONAI's sliding windows do.
        """
        spec = load_spec(degradation, self.bundle) if isinstance(degradation, str) else degradation
        with torch.no_grad():
            return self.inferer(
                image.to(self.device),
                self.network,
                degradation=spec,
                steps=steps,
                misfit=misfit,
                agreement=agreement,
                save_intermediates=save_intermediates,
                intermediate_steps=intermediate_steps,
            )


def load_fusion(
    bundle: str = DEFAULT_BUNDLE,
    *,
    device: str | torch.device = "auto",
    fusion_rule: str | None = None,
    compiled: bool = False,
) -> Fusion:
    """Load a bundle's network with its weights, and its inferer.

    Args:
        bundle: Name or folder of a bundle.
        device: Where to compute, see `medfuse.devices.pick_device`.
        fusion_rule: How the fused image comes of the sources, see `medfuse.fusion.rule`; None: as the bundle says.
        compiled: Compile the denoiser by `torch.compile` as it is first called, anew for each kind of shape: for many
            images on a GPU. It needs a compiler; results differ by rounding.

    Raises:
        BundleError: There is no such bundle or device, it has no weights, or its inferer is of another kind.
        DegradationError: There is no such rule.
    """
    device = pick_device(device)
    if fusion_rule is not None:
        require_rule(fusion_rule)
    parser = read_inference(bundle, device=device)
    if fusion_rule is not None:
        set_values(parser, {"fusion_rule": fusion_rule})
    network, weights = load_network(parser)
    if compiled:
        cast(FusionModel, network).denoiser.compile()  # in place: its reach, and the parts beside it, stay
    inferer = parser.get_parsed_content("inferer")
    if not isinstance(inferer, FusionInferer):
        raise BundleError(f"the inferer of a bundle must be a FusionInferer, got {type(inferer).__name__}; change it.")
    return Fusion(network, inferer, device, weights, bundle, bool(parser.get("color", False)))


def export_bundle(bundle: str, path: str | Path) -> float:
    """Export a bundle's network with its weights to a file, see `medfuse.diffusion.export.export_network`.

    Args:
        bundle: Name or folder of a bundle.
        path: `.pt2`, `.onnx` or `.ts`.

    Returns:
        How far the export is off the network.

    Raises:
        BundleError: There is no such bundle, or it cannot be exported so.
    """
    network = load_fusion(bundle, device="cpu").network
    if not isinstance(network, FusionModel):
        raise BundleError(f"the network of a bundle must be a FusionModel, got {type(network).__name__}; change it.")
    return export_network(network, path)


def read_inference(
    bundle: str, *, overlays: Sequence[str | Path] = (), device: str | torch.device | None = None
) -> ConfigParser:
    """Read a bundle's `inference.json` and overlays on it; nothing is built yet.

    Args:
        bundle: Name or folder of a bundle.
        overlays: YAML or JSON files, merged from left to right.
        device: Replaces that of the configuration.

    Raises:
        BundleError: There is no such bundle, overlay or device, or an overlay has a key that nothing reads.
    """
    root = bundle_dir(bundle)
    check_overlays(overlays)
    parser = ConfigParser()
    base = root / "configs" / "inference.json"
    _warn_of_code([base, *overlays])
    try:
        _require_read(base, overlays)
        parser.read_config([str(base), *map(str, overlays)])
    except BundleError:
        raise
    except KeyError as error:
        raise BundleError(
            f"the keys of an overlay must lead into the configuration, got one that does not: {error}."
        ) from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise BundleError("An overlay must hold a mapping of keys, got another content; repair it.") from error
    set_values(parser, {"bundle_root": str(root)})
    if device is not None:
        set_values(parser, {"device": pick_device(device)})
    return parser


def _warn_of_code(configurations: Sequence[str | Path]) -> None:
    """Say what MONAI's own command says of any configuration, of those alone that are not medfuse's and hold code."""
    if names := foreign_code(configurations):
        _logger.warning(
            "%s must be of someone you trust, got code that runs with your rights; see it with "
            "`medfuse bundle check --list`.",
            ", ".join(names),
        )


def _require_read(base: Path, overlays: Sequence[str | Path]) -> None:
    """Raise where an overlay sets a key that is neither one of the bundle's nor named by a reference.

    It would do nothing, without a word: a slip, or a key of an earlier version.
    """
    known = set(ConfigParser.load_config_file(base))
    added = [ConfigParser.load_config_file(path) for path in overlays]
    read = known | set(re.findall(r"@(\w+)", json.dumps(added, default=str)))
    for key in (key for content in added for key in content.keys()):  # noqa: SIM118  (what is no mapping has none)
        name = re.split("#|::", str(key).lstrip("+"))[0]
        if name not in read and not name.startswith("_"):
            what = "a key of an overlay must be one that the configuration reads"
            raise BundleError(f"{what}, got {name!r}; {nearest(name, known)}.")


def set_values(parser: ConfigParser, values: Mapping[str, Any]) -> None:
    """Set keys of a configuration to values that MONAI's parser hands on as they are.

    A configuration is a program: of a text that begins with `$`, `@` or `%`, or of a mapping with `_target_`, MONAI
    makes what it says, and of `#` in any text `::`. What a user names, or what a file of data holds, is none of it: a
    key is set to an expression that only says which of the finished values is meant.

    Args:
        parser: The configuration, not parsed yet.
        values: By key; later ones win.
    """
    finished = parser.get(_FINISHED)
    if finished is None:
        parser[_FINISHED] = finished = _Finished()
    for key, value in values.items():
        parser[key] = f"$@{_FINISHED}[{len(finished.items)}]"
        finished.items.append((key, value))


def effective(parser: ConfigParser) -> dict[str, Any]:
    """Return a configuration with the values that were set in their places."""
    content = {key: value for key, value in parser.get().items() if key != _FINISHED}
    finished = parser.get(_FINISHED)
    return content if finished is None else content | dict(finished.items)


def load_network(parser: ConfigParser) -> tuple[torch.nn.Module, Path]:
    """Return the network of a configuration with its weights, for evaluation, and the file of the weights.

    Raises:
        BundleError: There is no such file, or it holds weights of another network.
    """
    weights = require_weights(parser.get_parsed_content("ckpt_path"))
    return restore_network(parser.get_parsed_content("network"), weights), weights


def restore_network(network: torch.nn.Module, weights: str | Path) -> torch.nn.Module:
    """Load the weights of a file into a network, and return it for evaluation.

    Raises:
        BundleError: There is no such file, or it holds weights of another network.
    """
    weights = require_weights(weights)
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        kind, remedy = ("others", "restore them") if zipfile.is_zipfile(weights) else contents(weights) or _UNKNOWN
        raise BundleError(
            f"the weights must fit the network, got {kind} at models/{weights.name}; {remedy}."
        ) from error
    return network.eval()


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
        overrides: Finished values of configuration keys, e.g. `dataset_dir`, `output_dir`, `datalist`, `degradation`,
            `steps`; none is read as an expression.

    Raises:
        BundleError: There is no such bundle.
        RuntimeError: What it is to do cannot be done; the error of ours is among its causes.
    """
    root = bundle_dir(bundle)
    configs = root / "configs"
    _warn_of_code([configs / "inference.json"])
    workflow = ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,  # how to log is the caller's affair
        workflow_type="inference",
    )
    set_values(workflow.parser, {"bundle_root": str(root), **overrides})
    workflow.initialize()
    workflow.run()
    workflow.finalize()
