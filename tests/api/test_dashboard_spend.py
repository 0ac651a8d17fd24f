"""The dashboard's page of what was spent, as a browser without JavaScript uses it."""

from pathlib import Path

import pytest

from tests.flow.test_approvals import ABOVE, submitted
from tests.support.browsing import browser
from tests.support.paying import PRICE, Seller, selling
from tests.support.running import HeldClock

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


async def test_a_job_is_approved_on_the_page_of_what_was_spent(tmp_path: Path) -> None:
    """Show a job that waits with its price, pay it when it is approved there, and list the payment as CSV too."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), **ABOVE) as running:
        job = await submitted(running)
        async with browser(running) as reader:
            page = await reader.get("/spend")
            assert "Waits for an approval 1" in page.text
            assert "0.330000 USD" in page.text
            assert seller.moved == 0
            page = await reader.send(page, f"/spend/{job['id']}/approvals", approve="true")
            assert "approved and now" in page.text
            assert seller.moved == PRICE
            assert "0.330000 of 10.000000 USDC used" in page.text
            table = await reader.get("/spend/receipts")
            assert table.response.headers["content-type"].startswith("text/csv")
            assert job["id"] in table.html
