"""Make a clip for each line of a file: ``aivideo batch`` without its terminal output.

:mod:`~aivideo.manifest.reading` reads the lines, :mod:`~aivideo.manifest.matching` finds the job
of each line in the ledger, :mod:`~aivideo.manifest.preparing` records what will be sent and refuses
what would be bought twice, :mod:`~aivideo.manifest.run` submits and saves what is left, and
:mod:`~aivideo.manifest.results` describes how each line ended.
"""

from __future__ import annotations

from aivideo.manifest.matching import Match, Plan, match
from aivideo.manifest.names import content_name, slug, text_of
from aivideo.manifest.preparing import BatchSettings, examine, lines_to_send, prepare
from aivideo.manifest.reading import (
    Defaults,
    Estimate,
    Line,
    ManifestError,
    check_folder,
    configure_manifest,
    estimate,
    read_manifest,
)
from aivideo.manifest.results import (
    REPORT,
    UNFINISHED,
    BatchReport,
    Result,
    configure_report,
)
from aivideo.manifest.run import Batch

__all__ = [
    "REPORT",
    "UNFINISHED",
    "Batch",
    "BatchReport",
    "BatchSettings",
    "Defaults",
    "Estimate",
    "Line",
    "ManifestError",
    "Match",
    "Plan",
    "Result",
    "check_folder",
    "configure_manifest",
    "configure_report",
    "content_name",
    "estimate",
    "examine",
    "lines_to_send",
    "match",
    "prepare",
    "read_manifest",
    "slug",
    "text_of",
]
