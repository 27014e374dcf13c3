"""The breaker and the circuit, without HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from model_server.breaker import Breaker, Circuit
from model_server.errors import Overloaded


async def hold(breaker: Breaker, release: asyncio.Event, order: list[int] | None = None, number: int = 0) -> None:
    async with breaker.slot():
        if order is not None:
            order.append(number)
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_than_the_limits_and_in_order():
    async def run() -> None:
        breaker, release, order = Breaker(2, 3), asyncio.Event(), []
        tasks = [asyncio.create_task(hold(breaker, release, order, number)) for number in range(5)]
        await settle()
        assert (breaker.in_flight, breaker.waiting, order) == (2, 3, [0, 1])
        with pytest.raises(Overloaded, match="2 requests are in flight and 3 wait"):
            await hold(breaker, release)
        release.set()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]
        assert (breaker.in_flight, breaker.waiting) == (0, 0)

    asyncio.run(run())


def test_whoever_gives_up_waiting_gives_up_the_place():
    async def run() -> None:
        breaker, release = Breaker(1, 2), asyncio.Event()
        tasks = [asyncio.create_task(hold(breaker, release)) for _ in range(3)]
        await settle()
        tasks[1].cancel()
        await settle()
        assert breaker.waiting == 1
        # One that is cancelled in the moment its turn comes passes the slot on.
        release.set()
        await asyncio.sleep(0)
        tasks[2].cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert (breaker.in_flight, breaker.waiting) == (0, 0)

    asyncio.run(run())


def test_who_is_cancelled_while_a_slot_is_handed_over_is_just_cancelled():
    async def run() -> None:
        breaker, release = Breaker(1, 2), asyncio.Event()
        tasks = [asyncio.create_task(hold(breaker, release)) for _ in range(2)]
        await settle()
        tasks[1].cancel()  # it has not run since when the slot is freed
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), asyncio.CancelledError]
        assert (breaker.in_flight, breaker.waiting) == (0, 0)

    asyncio.run(run())


def test_the_circuit_opens_after_failures_in_a_row_and_closes_when_the_other_side_is_back():
    async def run() -> None:
        back = False

        async def probe() -> bool:
            return back

        circuit = Circuit(probe, 3)
        for _ in range(2):
            circuit.failed()
        circuit.succeeded()
        for _ in range(2):
            circuit.failed()
        assert not circuit.is_open
        circuit.failed()
        assert circuit.is_open
        waiting = asyncio.create_task(circuit.wait_until_closed())
        await asyncio.sleep(0.4)
        assert not waiting.done()
        back, begun = True, time.monotonic()
        await waiting
        assert time.monotonic() - begun < 0.5
        assert not circuit.is_open
        await circuit.close()

    asyncio.run(run())
