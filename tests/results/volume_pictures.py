"""Pictures of restored volumes in three planes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from results.volume_scenes import Problem

from medfuse.io import atomic_file

SHOWN = ("resampled", "Van Cittert", "iterative Yang, MRI", "GTM, MRI", "medfuse")


def planes(path: Path, p: Problem, restored: Mapping[str, np.ndarray]) -> None:
    """Draw an axial, a coronal and a sagittal slice of MRI, truth and methods, through the largest hot lesion."""
    head = p.phantoms["all"]
    largest = max(range(len(head.lesions)), key=lambda k: (head.lesions[k].uptake > 1, head.lesions[k].radius))
    at = np.argwhere(head.marks == largest + 1).mean(0).astype(int)
    top = float(np.percentile(head.pet, 99.7))
    images = {"MRI": (head.mri, 1.0), "truth": (head.pet, top)}
    images |= {name: (restored[name], top) for name in SHOWN if name in restored}
    figure, axes = plt.subplots(3, len(images), figsize=(1.6 * len(images), 5.2), facecolor="white")
    for column, (name, (image, most)) in enumerate(images.items()):
        for row, axis in enumerate((2, 1, 0)):
            cut = np.take(image, at[axis], axis).T[::-1]
            axes[row, column].imshow(cut, cmap="gray", vmin=0, vmax=most)
            axes[row, column].axis("off")
        axes[0, column].set_title(name, fontsize=8)
    figure.subplots_adjust(0, 0, 1, 0.94, 0.02, 0.02)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
