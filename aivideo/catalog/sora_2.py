"""Sora 2, as the provider's page describes it ("Input 对象", "定价")."""

from __future__ import annotations

from aivideo.catalog.model import Model
from aivideo.catalog.prices import PerSecond
from aivideo.catalog.rules import Choice, Text, URLs

SORA_2 = Model(
    name="sora-2",
    fields=(
        Text("prompt", max_characters=5000),
        Choice("duration", (4, 8, 12), unit="seconds"),
        Choice("aspect_ratio", ("16:9", "9:16")),
        URLs("image_urls", max_items=1),
    ),
    price=PerSecond(25),
    kind=("duration",),
)
