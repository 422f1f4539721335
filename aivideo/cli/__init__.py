"""The ``aivideo`` command. It needs the extra ``cli``, and says so in one line without it."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and exit with its code."""
    try:
        from aivideo.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print(
            'aivideo: the command needs its extra: pip install "aivideo-sdk[cli]"', file=sys.stderr
        )
        raise SystemExit(2) from None
    raise SystemExit(run(sys.argv[1:]))
