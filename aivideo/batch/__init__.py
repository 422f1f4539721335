"""A manifest in, files and outcomes out: what ``aivideo batch`` runs, without its screen.

:mod:`~aivideo.batch.manifest` reads lines, :mod:`~aivideo.batch.matching` finds the jobs they are,
:mod:`~aivideo.batch.run` makes what is left to be made, :mod:`~aivideo.batch.report` says how they
ended.
"""

from __future__ import annotations

from aivideo.batch.manifest import (
    Defaults,
    Estimate,
    Line,
    ManifestError,
    check_folder,
    estimate,
    read_manifest,
    slug,
    text_of,
)
from aivideo.batch.matching import Match, Plan, match
from aivideo.batch.report import REPORT, UNFINISHED, BatchReport, Result
from aivideo.batch.run import Batch, Settings, check_files, prepare

__all__ = [
    "REPORT",
    "UNFINISHED",
    "Batch",
    "BatchReport",
    "Defaults",
    "Estimate",
    "Line",
    "ManifestError",
    "Match",
    "Plan",
    "Result",
    "Settings",
    "check_files",
    "check_folder",
    "estimate",
    "match",
    "prepare",
    "read_manifest",
    "slug",
    "text_of",
]
