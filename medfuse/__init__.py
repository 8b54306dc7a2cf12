"""medfuse: degradation-aware diffusion fusion of PET and MRI, as MONAI bundles. Research use only.

`fuse`, `load_fusion` and `read_back` are loaded when they are first asked for (PEP 562): `import medfuse` needs neither
torch nor MONAI.
"""

from typing import TYPE_CHECKING, Any

from medfuse.about import NOTICE, __version__

if TYPE_CHECKING:
    from medfuse.fusion import read_back
    from medfuse.pipeline import fuse, load_fusion

__all__ = ["NOTICE", "__version__", "fuse", "load_fusion", "read_back"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from medfuse import fusion, pipeline

    return globals().setdefault(name, getattr(fusion if name == "read_back" else pipeline, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
