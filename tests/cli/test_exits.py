"""Exit codes, and the words in which the command line reports an error."""

from __future__ import annotations

from decimal import Decimal

import pytest

from aivideo.cli import exits
from aivideo.errors import (
    AIVideoError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    LedgerError,
    SpendLimitError,
)
from aivideo.manifest import ManifestError

NO_MONEY = InsufficientCreditsError("too low", status=402, code="insufficient_credits")
OVER = BudgetExceededError(
    "max_credits=300", needed=Decimal(100), held=Decimal(250), ceiling=Decimal(300)
)
UNPRICED = BudgetExceededError(
    "max_credits=300", needed=100, held=0, ceiling=300, unpriced=2, unpriced_jobs=["b99a", "c0de"]
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NO_MONEY, exits.MONEY),
        (SpendLimitError("a cap", status=429), exits.MONEY),
        (OVER, exits.MONEY),
        (UNPRICED, exits.MONEY),
        (ConfigurationError("a setting"), exits.USAGE),
        (InvalidRequestError("a rule"), exits.USAGE),
        (ManifestError(["m.txt:1: a line"]), exits.USAGE),
        (LedgerError("a disk"), exits.FAILED),
        (OSError("a port"), exits.FAILED),
    ],
)
def test_an_error_has_an_exit_code(error: AIVideoError | OSError, code: int) -> None:
    assert exits.code_of(error) == code


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigurationError("base_url='x' needs a scheme"), "--base-url 'x' needs a scheme"),
        (ConfigurationError("jobs_in_flight=0 is too few"), "--max-running-jobs 0 is too few"),
        (OVER, "100 credits more would exceed --max-credits 300: 250 are charged"),
        (UNPRICED, "--max-credits 300: 2 earlier POSTs of unknown price (for example job b99a)"),
        (UNPRICED, "nothing more is bought under a ceiling; it was not sent"),
        (UNPRICED, "--max-credits none"),
        (NO_MONEY, "run the same command again"),
        (LedgerError("it is lost; pay_again=True buys it again"), "--pay-again buys it again"),
        (ManifestError(["m.csv:2: duration=5: must be"]), "m.csv:2: duration=5: must be"),
    ],
)
def test_a_message_names_options_and_not_arguments(error: AIVideoError, expected: str) -> None:
    text = exits.describe(error)
    assert expected in text
    assert "session." not in text


def test_an_error_is_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    exits.report_error(LedgerError("key sk-abcdef\nwas in it"))
    assert capsys.readouterr().err == "aivideo: key sk-… was in it\n"
