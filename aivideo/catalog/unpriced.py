"""Models of which only the name and the endpoint are known: sent unchecked, without a price."""

from __future__ import annotations

from aivideo.catalog.model import IMAGES, Model

VEO_3 = Model(name="veo-3")
KLING_3_0 = Model(name="kling-3.0")
SEEDANCE_2_0 = Model(name="doubao-seedance-2.0")
SEEDANCE_2_0_FAST = Model(name="doubao-seedance-2.0-fast")
NANO_BANANA_2 = Model(name="nano-banana-2", endpoint=IMAGES)
