"""The store on a real PostgreSQL: submitting, claiming, finishing once, following, reusing, forgetting."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import uvloop
from sqlalchemy.engine import make_url

from model_server.errors import DatabaseUnavailable, InvalidInput, SettingsError, Unprocessable
from model_server.queue_proxy.contents import Contents
from model_server.store import reads, retention, runs, submissions
from model_server.store.database import Database
from model_server.store.images import Images
from model_server.store.migrate import migrate
from model_server.store.queue.postgres import PostgresQueue
from model_server.store.runs import Claimed, Outcome
from model_server.store.submissions import Accepted, Submission
from queue_server import photo, rows

RESULT = [{"label": "cat", "index": 3, "score": 0.9, "top": []}]
WAITING = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def psycopg_url(url: str):
    return make_url(url).set(drivername="postgresql+psycopg")


@pytest.fixture
def run(database_url):
    """Run ``work(database)`` in a loop of its own."""

    def run_in_loop(work: Callable[[Database], Awaitable[object]]) -> object:
        async def with_database() -> object:
            database = Database(psycopg_url(database_url), 5)
            try:
                return await work(database)
            finally:
                await database.close()

        return uvloop.run(with_database())

    return run_in_loop


def submission(**more: object) -> Submission:
    image = photo()
    sha256 = hashlib.sha256(image).digest()
    return dataclasses.replace(
        Submission("m", image, sha256, "image/jpeg", work=sha256, version="1", reuse_seconds=60),
        **more,  # type: ignore[arg-type]
    )


async def submit(database: Database, one: Submission) -> Accepted:
    (accepted,) = await submissions.submit(database, queue(database), [one])
    assert isinstance(accepted, Accepted), accepted
    return accepted


def queue(database: Database, lease: float = 30) -> PostgresQueue:
    """Return a worker of its own each time."""
    return PostgresQueue(database, lease)


async def claim(database: Database, most: int = 10, lease: float = 30) -> list[Claimed]:
    return await runs.claim(queue(database, lease), most)


def done(claimed: Claimed) -> Outcome:
    return Outcome(claimed, predictions=RESULT, model_version="1")


async def until_one_waits_for_a_lock(database_url: str) -> None:
    deadline = time.monotonic() + 10
    while rows(database_url, f"SELECT count(*) {WAITING}") == [(0,)]:
        assert time.monotonic() < deadline, "nothing waits for a lock"
        await asyncio.sleep(0.02)


async def status(database: Database, accepted: Accepted) -> str:
    row = await reads.prediction(database, accepted.row.id)
    assert row is not None
    return row.status


def test_ids_are_version_7_and_in_order_of_time():
    before = time.time_ns() // 1_000_000
    ids = [submissions.new_id() for _ in range(1000)]
    assert {one.version for one in ids} == {7}
    assert {one.variant for one in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 1000
    assert before <= ids[0].int >> 80 <= ids[-1].int >> 80 <= time.time_ns() // 1_000_000


def test_migrations_started_at_once_from_many_processes_all_succeed(postgres, database_url):
    rows(database_url, "DROP SCHEMA public CASCADE")
    rows(database_url, "CREATE SCHEMA public")
    with ThreadPoolExecutor(5) as pool:
        revisions = set(pool.map(lambda _: migrate(psycopg_url(database_url)), range(5)))
    assert len(revisions) == 1
    assert rows(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_the_tables_are_what_the_models_say(database_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from model_server.store.models import Base

    with create_engine(psycopg_url(database_url)).connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    ours = [one for one in differences if not (one[0].startswith("remove_") and "pgqueuer" in str(one[1:]))]
    assert ours == []


def test_a_database_that_is_away_is_said_so(tmp_path):
    url = make_url(f"postgresql+psycopg://postgres@/nowhere?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        migrate(url)

    async def ask() -> None:
        await reads.state(Database(url, 2))

    with pytest.raises(DatabaseUnavailable):
        asyncio.run(ask())


@pytest.mark.parametrize(("url", "reason"), [(None, "is not set"), ("mysql://h/d", "mysql"), ("::", "not a URL")])
def test_a_wrong_database_url_is_named_by_its_variable(url, reason):
    from model_server.config import QueueProxySettings
    from model_server.store.database import url_of

    with pytest.raises(SettingsError, match=f"MODEL_SERVER_DATABASE_URL.*{reason}"):
        url_of(QueueProxySettings(database_url=url))


def test_a_job_is_stored_claimed_and_finished(run, database_url):
    async def work(database: Database) -> None:
        accepted = await submit(database, submission())
        assert accepted.row.status == "queued"
        (claimed,) = await claim(database)
        assert (claimed.id, claimed.run, claimed.media_type) == (accepted.row.id, 1, "image/jpeg")
        assert await claim(database) == []
        assert len(await runs.finish(queue(database), [done(claimed)])) == 1
        assert len(await runs.finish(queue(database), [done(claimed)])) == 0
        assert await status(database, accepted) == "succeeded"

    run(work)
    assert rows(database_url, "SELECT count(*) FROM pgqueuer") == [(0,)]


def test_urgent_jobs_are_claimed_first(run):
    async def work(database: Database) -> None:
        accepted = [await submit(database, submission(priority=priority)) for priority in (3, 7, 0, 3)]
        positions = [await reads.position(database, one.row) for one in accepted]
        assert positions == [1, 3, 0, 2]
        order = [(await claim(database, 1))[0].id for _ in accepted]
        assert order == [accepted[place].row.id for place in (2, 0, 3, 1)]

    run(work)


def test_a_worker_that_lost_its_lease_cannot_write(run):
    async def work(database: Database) -> None:
        accepted = await submit(database, submission())
        (first,) = await claim(database)
        await asyncio.sleep(1.1)
        (second,) = await claim(database, lease=1)
        assert (second.id, second.run) == (first.id, 2)
        wrong = dataclasses.replace(done(first), predictions=[{"label": "wrong"}])
        assert len(await runs.finish(queue(database), [wrong])) == 0
        assert await status(database, accepted) == "running"
        assert len(await runs.finish(queue(database), [done(second)])) == 1
        row = await reads.prediction(database, accepted.row.id)
        assert row is not None
        assert row.predictions == RESULT

    run(work)


def test_a_sign_of_life_keeps_a_job(run):
    async def work(database: Database) -> None:
        await submit(database, submission())
        (claimed,) = await claim(database)
        for _ in range(3):
            await asyncio.sleep(0.5)
            await queue(database).extend([claimed.entry])
            assert await claim(database, lease=1) == []

    run(work)


def test_a_retry_is_due_after_its_delay(run):
    async def work(database: Database) -> None:
        accepted = await submit(database, submission())
        (claimed,) = await claim(database)
        error = {"code": "attempt_failed", "message": "no"}
        assert len(await runs.finish(queue(database), [Outcome(claimed, error=error, retry_seconds=0.5)])) == 1
        assert await status(database, accepted) == "queued"
        assert await claim(database) == []
        await asyncio.sleep(0.6)
        (again,) = await claim(database)
        assert (again.run, again.attempts) == (2, 2)

    run(work)


@pytest.mark.parametrize("running", [False, True])
def test_cancelled_is_cancelled(run, database_url, running):
    async def work(database: Database) -> None:
        accepted = await submit(database, submission())
        claimed = await claim(database) if running else []
        assert await runs.cancel(queue(database), accepted.row.id)
        assert not await runs.cancel(queue(database), accepted.row.id)
        assert len(await runs.finish(queue(database), [done(one) for one in claimed])) == 0
        assert await claim(database, lease=1) == []
        assert await status(database, accepted) == "cancelled"

    run(work)
    assert rows(database_url, "SELECT count(*) FROM pgqueuer") == [(0,)]


def test_a_job_past_its_deadline_is_never_claimed_and_fails(run):
    async def work(database: Database) -> None:
        accepted = await submit(database, submission(deadline_seconds=0.2))
        await asyncio.sleep(0.3)
        assert await claim(database) == []
        assert await runs.expire(queue(database)) == 1
        row = await reads.prediction(database, accepted.row.id)
        assert row is not None
        assert (row.status, row.error["code"], row.attempts) == ("failed", "deadline_exceeded", 0)

    run(work)


def test_identical_work_in_flight_is_done_once(run):
    async def work(database: Database) -> None:
        same = submission()
        all_at_once = await submissions.submit(database, queue(database), [same, same, same])
        assert [one.cache for one in all_at_once if isinstance(one, Accepted)] == [None, "collapsed", "collapsed"]
        later = await submit(database, same)
        (claimed,) = await claim(database)
        assert len(await runs.finish(queue(database), [done(claimed)])) == 1
        for one in (*all_at_once, later):
            assert await status(database, one) == "succeeded"  # type: ignore[arg-type]
        reused = await submit(database, same)
        assert (reused.cache, reused.row.status, reused.row.predictions) == ("hit", "succeeded", RESULT)

    run(work)


@pytest.mark.parametrize("more", [{"work": None}, {"version": "2"}, {"version": None}, {"reuse_seconds": 0.0}])
def test_a_result_is_not_reused_where_it_may_differ(run, more):
    async def work(database: Database) -> None:
        same = submission()
        await submit(database, same)
        await runs.finish(queue(database), [done(one) for one in await claim(database)])
        assert (await submit(database, dataclasses.replace(same, **more))).cache is None

    run(work)


def test_a_reused_result_does_not_live_on_by_being_reused(run):
    async def work(database: Database) -> None:
        same = submission(reuse_seconds=1)
        await submit(database, same)
        await runs.finish(queue(database), [done(one) for one in await claim(database)])
        await asyncio.sleep(0.6)
        assert (await submit(database, same)).cache == "hit"
        await asyncio.sleep(0.6)
        assert (await submit(database, same)).cache is None

    run(work)


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_a_follower_takes_over_where_the_first_ends_without_a_result(run, how):
    async def work(database: Database) -> None:
        same = submission()
        first = await submit(database, dataclasses.replace(same, deadline_seconds=0.2 if how == "expired" else 60))
        second, third = await submit(database, same), await submit(database, same)
        if how == "expired":
            await asyncio.sleep(0.3)
            assert await runs.expire(queue(database)) == 1
        else:
            assert await runs.cancel(queue(database), first.row.id)
        (claimed,) = await claim(database)
        assert claimed.id == second.row.id
        await runs.finish(queue(database), [done(claimed)])
        assert [await status(database, one) for one in (second, third)] == ["succeeded"] * 2

    run(work)


def test_a_follower_that_is_being_cancelled_does_not_take_over(run, database_url):
    async def work(database: Database) -> None:
        same = submission()
        first, second, third = [await submit(database, same) for _ in range(3)]
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("UPDATE predictions SET status = 'cancelled' WHERE id = %s", [second.row.id])
            cancelling = asyncio.create_task(runs.cancel(queue(database), first.row.id))
            await until_one_waits_for_a_lock(database_url)
        assert await cancelling
        assert [one.id for one in await claim(database)] == [third.row.id]
        assert await status(database, second) == "cancelled"

    run(work)


def test_followers_share_a_failure_for_good(run):
    async def work(database: Database) -> None:
        same = submission()
        both = [await submit(database, same) for _ in range(2)]
        (claimed,) = await claim(database)
        error = {"code": "rejected", "message": "not an image", "status": 400}
        await runs.finish(queue(database), [Outcome(claimed, error=error)])
        assert [await status(database, one) for one in both] == ["failed"] * 2

    run(work)


def test_a_claim_goes_on_behind_entries_that_need_no_run(run, database_url):
    async def work(database: Database) -> None:
        same = submission()
        leader = await submit(database, same)
        followers = [await submit(database, same) for _ in range(5)]
        assert [one.cache for one in followers] == ["collapsed"] * 5
        others = [await submit(database, submission()) for _ in range(2)]
        assert {one.id for one in await claim(database, 3)} == {one.row.id for one in (leader, *others)}

    run(work)
    assert rows(database_url, "SELECT count(*) FROM pgqueuer") == [(3,)]


def test_images_of_any_size_arrive(run):
    """The driver's pipeline hands over what fits into the kernel's buffer; the rest must follow."""

    async def work(database: Database) -> None:
        images = [photo() + bytes(size) for size in (0, 100_000, 1_000_000, 3_000_000, 12_000_000)]
        many = [submission(image=image, image_sha256=hashlib.sha256(image).digest(), work=None) for image in images]
        for some in ([one] for one in many):
            (accepted,) = await asyncio.wait_for(submissions.submit(database, queue(database), some), 20)
            assert isinstance(accepted, Accepted)
        (again, *_) = await asyncio.wait_for(submissions.submit(database, queue(database), many), 20)
        assert isinstance(again, Accepted)
        contents = Contents(database, Images(database, None))
        sizes = []
        for one in await claim(database):
            async with contents.of(one) as content:
                sizes.append(len(content))
        assert sorted(sizes) == sorted([len(image) for image in images] * 2)

    run(work)


def test_a_submission_that_fails_leaves_nothing_and_the_next_goes_through(run, database_url):
    async def work(database: Database) -> None:
        bad = submission(parameters={"a": "\0"})
        with pytest.raises(InvalidInput):
            await submissions.submit(database, queue(database), [submission(), bad])
        assert rows(database_url, "SELECT count(*) FROM images") == [(0,)]
        ends_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        rows(database_url, ends_sessions + "AND pid <> pg_backend_pid()")
        with pytest.raises(DatabaseUnavailable):
            await submit(database, submission())
        await submit(database, submission())

    run(work)
    assert rows(database_url, "SELECT count(*) FROM predictions") == [(1,)]


def test_an_idempotency_key_names_one_request(run):
    async def work(database: Database) -> None:
        one = submission(idempotency_key="k", fingerprint=b"1", work=None)
        first, again = await submissions.submit(database, queue(database), [one, one])
        assert isinstance(first, Accepted)
        assert isinstance(again, Accepted)
        assert (first.row.id, first.created, again.created) == (again.row.id, True, False)
        (other,) = await submissions.submit(database, queue(database), [dataclasses.replace(one, fingerprint=b"2")])
        assert isinstance(other, Unprocessable)

    run(work)


def test_two_that_submit_the_same_work_in_other_orders_are_both_served(run, database_url):
    """Where each waits for the other, PostgreSQL ends one of them: here, ours."""
    low, high = sorted((submission(), submission()), key=lambda one: one.work or b"")
    insert = (
        "INSERT INTO predictions (id, status, model, parameters, priority, deadline, work) "
        "VALUES (gen_random_uuid(), 'queued', 'm', '{}', 3, now() + interval '1 h', %s)"
    )

    async def work(database: Database) -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("SET deadlock_timeout = '60s'")
            await other.execute(insert, [high.work])
            submitting = asyncio.create_task(submissions.submit(database, queue(database), [low, high]))
            await until_one_waits_for_a_lock(database_url)
            await other.execute(insert, [low.work])
        assert [one.cache for one in await submitting if isinstance(one, Accepted)] == ["collapsed"] * 2

    run(work)


def test_a_failure_to_attach_refuses_nothing_that_is_accepted(run, database_url):
    async def work(database: Database) -> None:
        same = submission()
        leader = await submit(database, same)
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("SELECT FROM predictions WHERE id = %s FOR UPDATE", [leader.row.id])
            submitting = asyncio.create_task(submissions.submit(database, queue(database), [submission(), same]))
            await until_one_waits_for_a_lock(database_url)
            rows(database_url, f"SELECT pg_terminate_backend(pid) {WAITING}")
            accepted, refused = await submitting
        assert isinstance(accepted, Accepted)
        assert isinstance(refused, DatabaseUnavailable)

    run(work)


def test_more_than_one_transaction_takes_is_removed_by_one_clean_up(run, database_url):
    count = retention.AT_ONCE * 2 + 1
    rows(
        database_url,
        """
        WITH old AS (
          INSERT INTO images (sha256, media_type, content, created_at)
          SELECT sha256(n::text::bytea), 'image/png', '', now() - interval '2 h' FROM generate_series(1, %s) AS n
          RETURNING sha256)
        INSERT INTO predictions (id, status, model, image_sha256, parameters, priority, deadline, finished_at)
        SELECT gen_random_uuid(), 'succeeded', 'm', sha256, '{}', 3, now(), now() - interval '2 h' FROM old
        """,
        count,
    )

    async def work(database: Database) -> None:
        assert await retention.sweep(database, Images(database, None), 3600) == (count, count)

    run(work)


def test_what_is_past_its_retention_is_removed_and_images_with_it(run, database_url):
    async def work(database: Database) -> None:
        kept, finished = await submit(database, submission()), await submit(database, submission())
        claimed = await claim(database)
        await runs.finish(queue(database), [done(one) for one in claimed if one.id == finished.row.id])
        await asyncio.sleep(0.2)
        assert await retention.sweep(database, Images(database, None), 0.1) == (1, 1)
        assert await status(database, kept) == "running"

    run(work)
    assert rows(database_url, "SELECT count(*) FROM images") == [(1,)]


def test_the_rate_is_that_of_the_time_in_which_something_ran(run, database_url):
    """Two runs of 2 s at once, an hour's pause, one of 1 s: three in 3 s, however long nothing was asked for."""

    async def work(database: Database) -> None:
        assert (await reads.state(database)).seconds_between_ends is None
        for _ in range(3):
            await submit(database, submission())
        await runs.finish(queue(database), [done(one) for one in await claim(database)])
        spans = [("03:00:00", "03:00:02"), ("03:00:00", "03:00:02"), ("04:00:00", "04:00:01")]
        for number, (start, end) in enumerate(spans):
            rows(
                database_url,
                "UPDATE predictions SET started_at = '2026-01-01'::date + %s::time, "
                "finished_at = '2026-01-01'::date + %s::time "
                "WHERE id = (SELECT id FROM predictions ORDER BY id OFFSET %s LIMIT 1)",
                start,
                end,
                number,
            )
        state = await reads.state(database)
        assert (state.seconds_between_ends, state.run_seconds) == (pytest.approx(1), pytest.approx(5 / 3))

    run(work)
