"""The command line: which command is which function, and how a run ends."""

from __future__ import annotations

from cyclopts import App, CycloptsError

from aivideo._version import __version__
from aivideo.cli import exits
from aivideo.cli.commands.batch import batch
from aivideo.cli.commands.credits import show_credits
from aivideo.cli.commands.demo import demo
from aivideo.cli.commands.generate import generate
from aivideo.cli.commands.jobs_audit import audit
from aivideo.cli.commands.jobs_cancel import cancel
from aivideo.cli.commands.jobs_list import list_jobs
from aivideo.cli.commands.jobs_retry import retry
from aivideo.cli.commands.jobs_settle import settle
from aivideo.cli.commands.jobs_show import show_job
from aivideo.cli.commands.simulate import simulate
from aivideo.cli.commands.task import task
from aivideo.errors import AIVideoError

app = App(
    name="aivideo",
    version=__version__,
    suppress_keyboard_interrupt=False,  # run() returns the exit code
    help=f"""Make videos with the AI Video API (Sora 2): one, or thousands.

The key is taken from AIVIDEO_API_KEY. Without one, try `aivideo demo`; or run
`aivideo simulate` in another terminal and set AIVIDEO_BASE_URL=http://127.0.0.1:8811
and AIVIDEO_API_KEY=sk-anything.

{exits.TABLE}""",
)

jobs = App(
    name="jobs",
    help="""Show the jobs of a batch as the ledger knows them, and change them.

After a crash: `aivideo jobs list` shows what needs you, the same `aivideo batch` command
continues, and `aivideo jobs settle` records what became of jobs whose outcome is unknown.""",
)

jobs.command(list_jobs, name="list")
jobs.default(list_jobs)
jobs.command(show_job, name="show")
jobs.command(settle)
jobs.command(retry)
jobs.command(cancel)
jobs.command(audit)

app.command(jobs)
app.command(generate)
app.command(task)
app.command(show_credits, name="credits")
app.command(batch)
app.command(demo)
app.command(simulate)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        exits.warn(f"{error} (see `aivideo --help`)")
        return exits.USAGE
    except (AIVideoError, OSError, ValueError) as error:
        return exits.report_error(error)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    return code if isinstance(code, int) else exits.OK
