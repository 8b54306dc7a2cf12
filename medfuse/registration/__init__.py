"""Rigid registration of two volumes by mutual information, which knows when it failed.

All positions are in RAS millimetres, as nibabel has them; ITK's LPS is met in `files` only.
"""

from medfuse.registration.geometry import Grid, mutual_overlap, overlap_fraction
from medfuse.registration.rigid import RigidRegistration, register_rigid

__all__ = ["Grid", "RigidRegistration", "mutual_overlap", "overlap_fraction", "register_rigid"]
