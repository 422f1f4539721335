"""The entries that come with this package.

To add a model, write a module with its entry beside ``sora_2.py`` and list the entry here;
``tests/catalog/test_catalog.py`` fails for a module whose entry is not listed.
"""

from __future__ import annotations

from typing import Final

from aivideo.catalog.model import Model
from aivideo.catalog.sora_2 import SORA_2
from aivideo.catalog.unpriced import (
    KLING_3_0,
    NANO_BANANA_2,
    SEEDANCE_2_0,
    SEEDANCE_2_0_FAST,
    VEO_3,
)

MODELS: Final = (SORA_2, VEO_3, KLING_3_0, SEEDANCE_2_0, SEEDANCE_2_0_FAST, NANO_BANANA_2)


def find(name: str) -> Model:
    """Return the built-in entry of ``name``; for an unknown name one without rules or price."""
    for model in MODELS:
        if model.name == name:
            return model
    return Model(name=name)
