"""Whether what was read is what the hash in the record is of."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from medfuse.errors import BundleError
from medfuse.pipeline.facts import series_sha256, sha256


class VerifySourcesd(MapTransform):
    """Raise unless each source still has the hash that `DescribeSourcesd` noted of it: it was read in between."""

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False) -> None:
        """Make the transform.

        Args:
            keys: Keys of loaded sources.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data.

        Raises:
            BundleError: If a file is another now, or gone.
        """
        for key in self.key_iterator(data):
            noted = data.get(f"{key}_files")
            try:
                if noted:
                    digest = series_sha256(str(noted).split("\0"))
                else:
                    digest = sha256(str(data[key].meta[ImageMetaKey.FILENAME_OR_OBJ]))
                same = digest == data[f"{key}_sha256"]
            except OSError:
                same = False
            if not same:
                raise BundleError(
                    f"{key} of case {data.get('case')} must stay as it is while it is read, got other content in the "
                    "meantime; wait until it is complete, and run the case again."
                )
        return dict(data)
