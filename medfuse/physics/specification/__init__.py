"""The specification of a degradation: one list of steps per source, in the order in which they happened.

version: 1
source1:                                    # MRI or visible
  - blur: {sigma_px: 2.0}                   # or {fwhm_mm: 6.0}; one number, or one per axis
  - noise: {kind: gaussian, sigma: 0.0314}  # fraction of the source's full range, or `unit: input`
source2:                                    # PET or infrared
  - downsample: {factor: 2, kind: bicubic}  # average (default) or bicubic
  - motion: {length_px: 9, angle_deg: 30}
  - noise: {kind: poisson, counts: 60}      # expected events at full range; or {kind: rician, sigma: 0.04}
  - gamma: {exponent: 0.8}                  # a power of the values, last of all

What nobody knows is estimated from the images, see `medfuse.estimation`: `auto` stands for a blur, for noise, for both
of a source (`source2: auto`), or for both of both sources (`auto` alone). It may be bounded:

  - blur: {auto: {sigma_px: [0, 3]}}
  - noise: {kind: rician, auto: {sigma: [0, 0.1]}}
"""

from medfuse.physics.specification.joint import SPEC_VERSION, parse_degradation
from medfuse.physics.specification.native import NativeSource, in_plane, native_of, parse_native
from medfuse.physics.specification.steps import STEPS, Step, varied
from medfuse.physics.specification.values import AUTO

__all__ = [
    "AUTO",
    "SPEC_VERSION",
    "STEPS",
    "NativeSource",
    "Step",
    "in_plane",
    "native_of",
    "parse_degradation",
    "parse_native",
    "varied",
]
