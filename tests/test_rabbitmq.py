"""RabbitMQ as the queue: what its death, its losses and its redeliveries do to predictions that were accepted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
import uvloop
from sqlalchemy.engine import make_url

from conftest import free_port
from job_audit import count_ends
from model_server.background import Background
from model_server.config import QueueProxySettings, load
from model_server.errors import DatabaseUnavailable, SettingsError
from model_server.store import reads, runs, submissions
from model_server.store.database import Database
from model_server.store.queue.broker import Broker
from model_server.store.queue.rabbitmq import RabbitQueue
from model_server.store.runs import Claimed, Outcome
from model_server.store.submissions import Accepted, Submission
from queue_server import (
    StubPredictor,
    answers,
    assert_each_ended_once,
    photo,
    rows,
    running_proxy,
    slow,
    submit_all,
    wait_until_all_ended,
)
from rabbit import Rabbit

JOBS = 300
LEASE = {"dispatch_lease_seconds": 2, "dispatch_poll_seconds": 1}
RESULT = [{"label": "cat", "index": 3, "score": 0.9, "top": []}]


@pytest.fixture
def stub() -> Iterator[StubPredictor]:
    with StubPredictor(answers()) as predictor:
        yield predictor


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def rabbit(rabbit: Rabbit) -> Rabbit:
    """Return a broker whose queue is there for longer than a moment.

    RabbitMQ 3.10 keeps what a new quorum queue is called in memory for up to 3 s; killed before that, it has no leader.
    """
    asyncio.run(declared(rabbit))
    time.sleep(4)
    return rabbit


async def declared(rabbit: Rabbit) -> None:
    broker = Broker(rabbit.url, "predictions", 30)
    async with await broker.connect() as connection:
        await broker.declare(connection)


def unpublished(database_url: str) -> int:
    return int(rows(database_url, "SELECT count(*) FROM outbox")[0][0])


class TestBroker:
    """The broker is killed as by a crash, and comes back with what it had written."""

    def test_killed_and_restarted_while_clients_submit_and_jobs_run(self, tmp_path, database_url, rabbit, stub):
        stub.behave = slow(0.05)
        count_ends(database_url)
        ids: dict[str, str] = {}
        with running_proxy(
            tmp_path / "log", database_url, stub.url, queue=rabbit.url, dispatch_concurrency=4, **LEASE
        ) as proxy:
            thread = threading.Thread(target=lambda: ids.update(submit_all(proxy, JOBS, parallel=4)))
            thread.start()
            wait_until_all_ended(database_url, 20)
            rabbit.kill()
            accepted = [proxy.submit() for _ in range(20)]
            assert {one.status_code for one in accepted} == {202}
            assert proxy.get("/readyz").status_code == 200
            rabbit.start()
            thread.join(60)
            wait_until_all_ended(database_url, JOBS + 20)
        assert_each_ended_once(database_url, [*ids.values(), *(one.json()["id"] for one in accepted)])

    def test_work_resumes_within_two_seconds_of_its_return(self, tmp_path, database_url, rabbit, stub):
        with running_proxy(tmp_path / "log", database_url, stub.url, queue=rabbit.url) as proxy:
            assert proxy.submit(Prefer="respond-async, wait=10").json()["status"] == "succeeded"
            rabbit.kill()
            waiting = [proxy.submit().json()["id"] for _ in range(5)]
            assert unpublished(database_url) == 5
            time.sleep(0.6)  # so old may the view of the queue be
            assert proxy.queue()["queued"] == 5
            assert "model_server_queue_proxy_unpublished 5.0" in proxy.get("/metrics").text
            cancelled = waiting.pop()
            assert httpx.delete(f"{proxy.url}/v1/predictions/{cancelled}").json()["status"] == "cancelled"
            rabbit.start()
            begun = time.monotonic()
            assert all(proxy.prediction(one, wait=5)["status"] == "succeeded" for one in waiting)
            assert time.monotonic() - begun < 2
        assert len(stub.bodies) == 5

    def test_what_is_in_flight_when_it_dies_is_run_once(self, tmp_path, database_url, rabbit, stub):
        """Its messages are delivered again, to the process that is at work on them already."""
        stub.behave = slow(12)
        with running_proxy(tmp_path / "log", database_url, stub.url, queue=rabbit.url) as proxy:
            identifier = proxy.submit().json()["id"]
            wait_for_requests(stub, 1)
            rabbit.kill()
            rabbit.start()
            assert proxy.prediction(identifier, wait=20)["status"] == "succeeded"
        assert len(stub.bodies) == 1
        assert asyncio.run(rabbit.waiting("predictions")) == 0

    def test_broker_that_is_away_from_the_start_delays_but_loses_nothing(self, tmp_path, database_url, rabbit, stub):
        rabbit.kill()
        with running_proxy(tmp_path / "log", database_url, stub.url, queue=rabbit.url) as proxy:
            ids = submit_all(proxy, 10)
            rabbit.start()
            wait_until_all_ended(database_url, 10, 10)
        assert {one for (one,) in rows(database_url, "SELECT id::text FROM predictions")} == set(ids.values())


def wait_until_published(database_url: str) -> None:
    deadline = time.monotonic() + 10
    while unpublished(database_url):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_requests(stub: StubPredictor, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(stub.bodies) < count:
        assert time.monotonic() < deadline, f"{len(stub.bodies)} requests have come"
        time.sleep(0.01)


class TestQueueIsLost:
    """PostgreSQL is the record: what RabbitMQ no longer holds is announced again."""

    def test_deleted_queue_is_made_again_with_what_it_held(self, tmp_path, database_url, shared_rabbit, name, stub):
        settings = {"queue": shared_rabbit.url, "queue_name": name}
        stub.behave = slow(1)
        with running_proxy(tmp_path / "log", database_url, stub.url, dispatch_concurrency=1, **settings) as proxy:
            submit_all(proxy, 5)
            wait_for_requests(stub, 1)
            asyncio.run(shared_rabbit.delete(name))
            assert wait_until_all_ended(database_url, 5, 15) == {"succeeded": 5}

    def test_purged_queue_is_filled_again(self, tmp_path, database_url, shared_rabbit, name, stub):
        settings = {"queue": shared_rabbit.url, "queue_name": name}
        away = f"http://127.0.0.1:{free_port()}"
        with running_proxy(tmp_path / "log", database_url, away, **settings) as proxy:
            submit_all(proxy, 5)
            wait_until_published(database_url)
        asyncio.run(shared_rabbit.purge(name))
        rows(database_url, "TRUNCATE outbox")
        with running_proxy(tmp_path / "log", database_url, stub.url, **settings):
            assert wait_until_all_ended(database_url, 5, 15) == {"succeeded": 5}
        assert len(stub.bodies) == 5

    def test_message_that_is_no_id_is_dropped(self, tmp_path, database_url, shared_rabbit, name, stub):
        settings = {"queue": shared_rabbit.url, "queue_name": name}
        with running_proxy(tmp_path / "log", database_url, stub.url, **settings) as proxy:
            proxy.submit(Prefer="respond-async, wait=10")
            asyncio.run(shared_rabbit.send(name, b"nonsense", b"\xff", str(uuid.uuid4()).encode()))
            assert proxy.submit(Prefer="respond-async, wait=10").json()["status"] == "succeeded"
        assert asyncio.run(shared_rabbit.waiting(name)) == 0


class TestChangeOfQueue:
    def test_what_waits_in_the_one_queue_is_done_by_the_other(self, tmp_path, database_url, shared_rabbit, name, stub):
        rabbit = {"queue": shared_rabbit.url, "queue_name": name}
        only_serve = {"arguments": ["--no-dispatch"]}
        with running_proxy(tmp_path / "log", database_url, stub.url, **only_serve) as proxy:
            submit_all(proxy, 10)
        with running_proxy(tmp_path / "log", database_url, stub.url, **rabbit):
            assert wait_until_all_ended(database_url, 10, 10) == {"succeeded": 10}
        port = free_port()
        with running_proxy(tmp_path / "log", database_url, f"http://127.0.0.1:{port}", **rabbit) as proxy:
            submit_all(proxy, 10)
        with running_proxy(tmp_path / "log", database_url, stub.url):
            assert wait_until_all_ended(database_url, 20, 10) == {"succeeded": 20}


class Worker:
    """A queue as one process has it, and what it takes."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self.queue = RabbitQueue(database, broker, 10, 60)
        self._running = asyncio.create_task(self.queue.run(Background(lambda _: None)))

    async def claim(self, most: int = 10, seconds: float = 10) -> list[Claimed]:
        """Return what is claimed first, within so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.queue.work.clear()
            if claimed := await runs.claim(self.queue, most):
                return claimed
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.queue.work.wait(), left)
        return []

    async def close(self) -> None:
        """End as a killed process does: its connections are lost."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


@pytest.fixture
def run(database_url, shared_rabbit, name):
    """Run ``work(database, start)`` in a loop of its own; ``start()`` gives another worker."""

    def run_in_loop(work: Callable[[Database, Callable[[], Worker]], Awaitable[None]]) -> None:
        async def with_database() -> None:
            database = Database(make_url(database_url).set(drivername="postgresql+psycopg"), 5)
            workers: list[Worker] = []

            def start() -> Worker:
                workers.append(Worker(database, Broker(shared_rabbit.url, name, 4)))
                return workers[-1]

            try:
                await work(database, start)
            finally:
                for worker in workers:
                    await worker.close()
                await database.close()

        uvloop.run(with_database())
        assert asyncio.run(shared_rabbit.waiting(name)) == 0, "messages are left in the queue"

    return run_in_loop


async def submit(database: Database, worker: Worker, **more: object) -> Accepted:
    one = Submission("m", photo(), uuid.uuid4().bytes, "image/jpeg", **more)  # type: ignore[arg-type]
    (accepted,) = await submissions.submit(database, worker.queue, [one])
    assert isinstance(accepted, Accepted), accepted
    worker.queue.look()  # nobody listens to the database here
    return accepted


def done(claimed: Claimed) -> Outcome:
    return Outcome(claimed, predictions=RESULT, model_version="1")


class TestWorkers:
    def test_one_that_lost_its_connection_cannot_write(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            first = start()
            accepted = await submit(database, first)
            (one,) = await first.claim()
            await first.close()
            second = start()
            (two,) = await second.claim()
            assert (two.id, one.run, two.run) == (accepted.row.id, 1, 2)
            assert await runs.finish(first.queue, [done(one)]) == set()
            assert await runs.finish(second.queue, [done(two)]) == {accepted.row.id}

        run(work)

    def test_what_was_delivered_to_one_that_stops_goes_to_another(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            first = start()
            accepted = [await submit(database, first) for _ in range(3)]
            (one,) = await first.claim(1)
            await asyncio.sleep(0.5)  # the others are delivered to it
            await first.queue.release()
            second = start()
            others = [*(await second.claim(1)), *(await second.claim(1))]
            assert {one.id, *(other.id for other in others)} == {each.row.id for each in accepted}
            assert len(await runs.finish(first.queue, [done(one)])) == 1
            assert len(await runs.finish(second.queue, [done(other) for other in others])) == 2

        run(work)

    def test_retry_is_due_after_its_delay(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            await submit(database, worker)
            (claimed,) = await worker.claim()
            error = {"code": "attempt_failed", "message": "no"}
            await runs.finish(worker.queue, [Outcome(claimed, error=error, retry_seconds=2)])
            assert await worker.claim(seconds=1.5) == []
            (again,) = await worker.claim(seconds=3)
            assert (again.run, again.attempts) == (2, 2)
            await runs.finish(worker.queue, [done(again)])

        run(work)

    def test_announcement_that_comes_twice_is_run_once(self, run, database_url):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            accepted = await submit(database, worker)
            (claimed,) = await worker.claim()
            rows(database_url, "INSERT INTO outbox (prediction_id, priority) VALUES (%s, 3)", accepted.row.id)
            worker.queue.look()
            assert await worker.claim(seconds=1) == []
            assert await runs.finish(worker.queue, [done(claimed)]) == {accepted.row.id}
            rows(database_url, "INSERT INTO outbox (prediction_id, priority) VALUES (%s, 3)", accepted.row.id)
            worker.queue.look()
            assert await worker.claim(seconds=1) == []

        run(work)

    def test_retry_that_comes_before_its_predecessor_is_acknowledged_is_run(self, run, database_url):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            accepted = await submit(database, worker)
            (claimed,) = await worker.claim()
            async with worker.queue.transaction() as transaction:
                await transaction.remove([claimed.entry])
                # What put_back commits, seen by another process before this one comes to acknowledge its message.
                rows(database_url, "UPDATE predictions SET status = 'queued' WHERE id = %s", accepted.row.id)
                rows(database_url, "INSERT INTO outbox (prediction_id, priority) VALUES (%s, 3)", accepted.row.id)
                worker.queue.look()
                await asyncio.sleep(1)
            (again,) = await worker.claim()
            assert (again.id, again.run) == (accepted.row.id, 2)
            await runs.finish(worker.queue, [done(again)])

        run(work)

    def test_claim_that_the_database_fails_is_claimed_again(self, run, database_url):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            accepted = await submit(database, worker)
            await asyncio.sleep(0.5)
            rows(
                database_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            with pytest.raises(DatabaseUnavailable):
                await runs.claim(worker.queue, 1)
            (claimed,) = await worker.claim()
            assert claimed.id == accepted.row.id
            await runs.finish(worker.queue, [done(claimed)])

        run(work)

    def test_of_what_was_delivered_the_urgent_is_claimed_first(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            await asyncio.sleep(0.5)
            accepted = [await submit(database, worker, priority=priority) for priority in (3, 7, 0, 3)]
            await asyncio.sleep(1)
            order = [(await worker.claim(1))[0] for _ in accepted]
            assert [one.id for one in order] == [accepted[place].row.id for place in (2, 0, 3, 1)]
            await runs.finish(worker.queue, [done(one) for one in order])

        run(work)

    def test_cancelled_and_late_are_never_run_and_leave_no_message(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            cancelled = await submit(database, worker)
            late = await submit(database, worker, deadline_seconds=0.01)
            assert await runs.cancel(worker.queue, cancelled.row.id)
            await asyncio.sleep(0.1)
            assert await runs.expire(worker.queue) == 1
            assert await worker.claim(seconds=1) == []
            statuses = [(await reads.prediction(database, one.row.id)).status for one in (cancelled, late)]  # type: ignore[union-attr]
            assert statuses == ["cancelled", "failed"]

        run(work)

    def test_follower_takes_over_where_the_first_is_cancelled(self, run):
        async def work(database: Database, start: Callable[[], Worker]) -> None:
            worker = start()
            first = await submit(database, worker, work=b"same")
            second = await submit(database, worker, work=b"same")
            assert second.cache == "collapsed"
            assert await runs.cancel(worker.queue, first.row.id)
            worker.queue.look()
            (claimed,) = await worker.claim()
            assert claimed.id == second.row.id
            await runs.finish(worker.queue, [done(claimed)])

        run(work)


@pytest.mark.parametrize("url", ["redis://host", "amqp://", "nonsense"])
def test_other_urls_are_refused_without_showing_them(url: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_SERVER_QUEUE") as refused:
        load(QueueProxySettings, queue=url)
    assert url not in str(refused.value)


def test_broker_is_not_needed_to_serve_alone(tmp_path, database_url, rabbit: Rabbit, stub):
    rabbit.kill()
    with running_proxy(
        tmp_path / "log", database_url, stub.url, arguments=["--no-dispatch"], queue=rabbit.url
    ) as proxy:
        assert proxy.submit().status_code == 202
    assert unpublished(database_url) == 1
