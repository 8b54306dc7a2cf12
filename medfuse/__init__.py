"""medfuse: degradation-aware diffusion fusion of PET and MRI, as MONAI bundles. Research use only."""

__version__ = "0.1.0"
NOTICE = "Research use only. Not a medical device. Not for diagnosis."
