"""A manifest in, files and outcomes out: what ``aivideo batch`` runs, without its screen.

:mod:`~aivideo.manifest.reading` reads the lines, :mod:`~aivideo.manifest.matching` finds the job
of each line in the ledger, :mod:`~aivideo.manifest.run` makes what is left to be made, and
:mod:`~aivideo.manifest.results` describes how each line ended.
"""

from __future__ import annotations

from aivideo.manifest.matching import Match, Plan, match
from aivideo.manifest.reading import (
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
from aivideo.manifest.results import REPORT, UNFINISHED, BatchReport, Result
from aivideo.manifest.run import Batch, Settings, check_files, prepare

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
