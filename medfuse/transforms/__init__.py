"""MONAI transforms."""

from medfuse.transforms.degrade import DegradationPrior, DegradeBatch, RandDegrade, RandDegraded

__all__ = ["DegradationPrior", "DegradeBatch", "RandDegrade", "RandDegraded"]
