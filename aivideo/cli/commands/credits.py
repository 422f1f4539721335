"""``aivideo credits``: show the balance."""

from __future__ import annotations

import asyncio

from aivideo.cli import exits
from aivideo.cli.console import money, print_json
from aivideo.cli.options import AsJSON, BaseURL


def show_credits(*, base_url: BaseURL = None, as_json: AsJSON = False) -> int:
    """Show the balance. 1 credit is $0.005; a second of Sora 2 costs 25.

    Example: aivideo credits
    """
    return asyncio.run(_show_credits(base_url, as_json=as_json))


async def _show_credits(base_url: str | None, *, as_json: bool) -> int:
    from aivideo._session.session import Session

    async with Session(base_url=base_url) as session:
        account = await session.credits()
    if as_json:
        print_json(account)
    else:
        print(f"balance    {money(account.balance)}")
        print(f"purchased  {money(account.total_purchased)}")
        print(f"consumed   {money(account.total_consumed)}")
    return exits.OK
