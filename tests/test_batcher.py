"""The batcher alone: order, micro-batches, bounds, failures, an orderly end."""

from __future__ import annotations

import asyncio
import threading

from model_server.batcher import Batcher


def run(scenario):
    return asyncio.run(scenario)


def test_results_come_back_to_the_item_they_belong_to():
    async def scenario():
        batcher = Batcher([lambda items: [item * 10 for item in items]] * 4, max_batch=3)
        results = await asyncio.gather(*batcher.submit(range(500)))
        await batcher.close()
        return results

    assert run(scenario()) == [number * 10 for number in range(500)]


def test_what_piles_up_behind_a_busy_worker_is_taken_together_up_to_the_maximum():
    sizes = []
    first_is_running, go_on = threading.Event(), threading.Event()

    def work(items):
        sizes.append(len(items))
        first_is_running.set()
        go_on.wait(5)
        return items

    async def scenario():
        batcher = Batcher([work], max_batch=4)
        futures = batcher.submit([0])
        await asyncio.to_thread(first_is_running.wait, 5)
        futures += batcher.submit(range(1, 10))
        go_on.set()
        await asyncio.gather(*futures)
        await batcher.close()

    run(scenario())
    assert sizes == [1, 4, 4, 1]


def test_a_failing_batch_fails_its_own_items_only():
    def work(items):
        if "bad" in items:
            raise ValueError("bad item")
        return items

    async def scenario():
        batcher = Batcher([work], max_batch=1)
        results = await asyncio.gather(*batcher.submit(["a", "bad", "b"]), return_exceptions=True)
        await batcher.close()
        return results

    first, failed, last = run(scenario())
    assert (first, last) == ("a", "b")
    assert isinstance(failed, ValueError)


def test_work_that_nobody_waits_for_any_more_is_not_done():
    done = []
    busy, go_on = threading.Event(), threading.Event()

    def work(items):
        busy.set()
        go_on.wait(5)
        done.extend(items)
        return items

    async def scenario():
        batcher = Batcher([work], max_batch=1)
        futures = batcher.submit(["running", "abandoned", "wanted"])
        await asyncio.to_thread(busy.wait, 5)
        futures[1].cancel()
        go_on.set()
        await asyncio.gather(futures[0], futures[2])
        await batcher.close()

    run(scenario())
    assert done == ["running", "wanted"]


def test_close_finishes_what_is_queued_and_ends_every_thread():
    async def scenario():
        batcher = Batcher([lambda items: items] * 3, max_batch=8)
        futures = batcher.submit(range(50))
        await batcher.close()
        return await asyncio.gather(*futures)

    assert run(scenario()) == list(range(50))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batcher-")]
