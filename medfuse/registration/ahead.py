"""A registration that is begun before it is asked for: by a process beside this one, see `medfuse.beside`.

What is asked for later is compared with what was begun, by the digest of both volumes: the result is that of
`register_rigid` in any case, and a wrong guess costs time alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from medfuse.beside import give_up, next_line, say
from medfuse.registration.rigid import RigidRegistration, register_rigid


class Pair(NamedTuple):
    """Two volumes **[X, Y, Z]**, float32, and their affines **[4, 4]**, voxel index to RAS mm."""

    fixed: np.ndarray
    fixed_affine: np.ndarray
    moving: np.ndarray
    moving_affine: np.ndarray

    @property
    def digest(self) -> str:
        """What is equal for equal volumes in equal places."""
        found = hashlib.blake2b(digest_size=16)
        for values in self:
            found.update(repr((values.shape, values.dtype.str)).encode())
            found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()


def answer(pair: Pair) -> None:
    """Register a pair with the default options, as the process that was begun, and tell the one that has begun it."""
    say(pair.digest)
    say(json.dumps(register_rigid(*pair).to_dict()))


def registered(pair: Pair, **options: Any) -> RigidRegistration:
    """Return what `register_rigid` returns of a pair: what was begun, where it is of the same pair.

    Raises:
        MedfuseError: As `register_rigid`.
    """
    told = "" if options or next_line() != pair.digest else next_line()
    give_up()  # it has ended, or does what nobody asks for
    return RigidRegistration.from_dict(json.loads(told)) if told else register_rigid(*pair, **options)
