"""API keys and their money: authentication, balances, charges, refunds and spend limits."""

from __future__ import annotations

from aivideo.simulator.exchange import SimRequest
from aivideo.simulator.limits import JobsCap
from aivideo.simulator.rules import RefusedError
from aivideo.simulator.scenario import Scenario
from aivideo.simulator.truth import Account, TaskRecord, Truth


class Accounts:
    """The accounts of one service, kept in `Truth.accounts`. All amounts in credits."""

    def __init__(self, scenario: Scenario, truth: Truth) -> None:
        """Open an account for each key the scenario lists."""
        self.scenario = scenario
        self._truth = truth
        for key in scenario.keys or ():
            self._open(key)

    def authenticate(self, request: SimRequest) -> Account:
        """Return the account of the request's key. A new key gets an account if it is allowed.

        Raises:
            RefusedError: if the key is missing, malformed, unknown, disabled, blocked, or not
                allowed from the caller's IP.
        """
        scheme, _, key = (request.header("Authorization") or "").partition(" ")
        account = self._truth.accounts.get(key)
        if scheme != "Bearer" or not key.startswith("sk-"):
            raise RefusedError(
                "invalid_api_key", "The API key is missing or does not start with 'sk-'."
            )
        if account is None:
            account = self._open(key)
        if account.refusal is not None:
            raise RefusedError(*account.refusal)
        return account

    def _open(self, key: str) -> Account:
        scenario = self.scenario
        refusal = None
        if key in scenario.disabled_keys:
            refusal = ("invalid_api_key", "The API key is disabled or deleted.")
        elif key in scenario.blocked_keys:
            refusal = ("invalid_api_key", "The account is blocked.")
        elif key in scenario.refused_ip_keys:
            refusal = ("ip_not_allowed", "The caller's IP is not on the key's allow-list.")
        elif scenario.keys is not None and key not in scenario.keys:
            raise RefusedError("invalid_api_key", "The API key does not exist.")
        balance = scenario.default_balance
        if scenario.keys is not None:
            balance = scenario.keys.get(key, balance)
        rate, create_rate = scenario.rate_limit, scenario.create_rate_limit
        account = Account(
            key,
            purchased=balance,
            balance=balance,
            limiter=None if rate is None or isinstance(rate, JobsCap) else rate.start(),
            create_limiter=None if create_rate is None else create_rate.start(),
            refusal=refusal,
        )
        self._truth.accounts[key] = account
        return account

    def charge(self, account: Account, price: int, now: float) -> None:
        """Charge a new task.

        Args:
            account: who pays.
            price: credits.
            now: seconds of the service's clock.

        Raises:
            RefusedError: if the spend limit would be exceeded or the balance is too low. Nothing
                is charged then.
        """
        limit = self.scenario.spend_limit
        if limit is not None:
            window = self._spend_window(now)
            if window != account.spend_window:
                account.spend_window, account.spent = window, 0
            if account.spent + price > limit:
                self._truth.spend_limited += 1
                raise RefusedError(
                    "spend_limit_exceeded", "The spend limit of this key is reached."
                )
        if account.balance < price:
            raise RefusedError(
                "insufficient_credits", "Your credit balance is too low. Please top up."
            )
        account.balance -= price
        account.consumed += price
        account.charged += price
        account.spent += price
        self._truth.charged += price

    def refund(self, task: TaskRecord) -> None:
        """Refund a failed task."""
        account, price = task.account, task.credits
        task.refunded = True
        account.balance += price
        account.refunded += price
        self._truth.refunded += price
        if self.scenario.refund_lowers_consumed:
            account.consumed -= price
        # A refund also lowers the spending of the current window, if the task was charged in it.
        if self._spend_window(task.created) == account.spend_window:
            account.spent -= price

    def _spend_window(self, now: float) -> float:
        length = self.scenario.spend_window
        return 0.0 if length is None else now // length
