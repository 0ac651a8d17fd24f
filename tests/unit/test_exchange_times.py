"""The times of an attempt on the loop that relay runs on, whose own clock stands still within a turn."""

import uvloop

from relay.outbound.webhook_sender import PostResult
from tests.flow.test_delivery import OK
from tests.flow.test_webhook_sender import answers, post, sender_of, serving


def test_times_are_finer_than_a_turn_of_the_loop() -> None:
    """Time an answer that comes within a millisecond, as it is usual between machines of one network."""

    async def made() -> PostResult:
        async with serving(answers(OK)) as server, sender_of() as sender:
            return await post(sender, f"http://127.0.0.1:{server.port}/")

    timings = uvloop.run(made()).timings
    for found_ms in (timings.lookup_ms, timings.connect_ms, timings.wait_ms):
        assert found_ms is not None
        assert found_ms > 0
        assert found_ms != round(found_ms)
