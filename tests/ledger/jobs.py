"""Jobs for the tests of ledgers."""

from __future__ import annotations

import secrets

from aivideo import models
from aivideo.ledger.records import JobRecord
from aivideo.models import Sora2


def job(prompt: str = "boat", *, batch: str | None = None, key: str | None = None) -> JobRecord:
    """Return a planned job of 100 credits."""
    request = Sora2(prompt, duration=4, aspect_ratio="16:9")
    return JobRecord(
        id=secrets.token_hex(8),
        request=request,
        fingerprint=models.fingerprint(request),
        credits=100,
        batch=batch,
        key=key,
        planned_at=1_800_000_000.0,
    )
