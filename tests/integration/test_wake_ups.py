"""Messages wake idle workers; announcements that are lost delay them, and lose none."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import dramatiq
import pytest
import redis
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import Retries

from runtime.redis_client import shared_client
from runtime.servers import valkey_program
from runtime.settings import settings
from tests.chaos import free_port
from tests.support.serving import wait_until
from worker.jobs import wake_ups
from worker.jobs.wake_ups import WakeUpBroker

NEVER = 3_600.0


class Jobs:
    """A broker with one queue and a worker of two threads, which handles messages until the test lets it go on."""

    def __init__(self, client: redis.Redis) -> None:
        namespace = f"{settings().redis_namespace}:{uuid4().hex}"
        self.client = client
        self.channel = f"{namespace}:announcements"
        self.broker = WakeUpBroker(client=self.client, namespace=namespace, middleware=[Retries(max_retries=0)])
        self.done: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        declare = dramatiq.actor(broker=self.broker, queue_name="jobs", actor_name="handle")
        self.actor = declare(self.handle)
        self.worker = dramatiq.Worker(self.broker, worker_threads=2, worker_timeout=50)

    def handle(self, number: int) -> None:
        self.may_go_on.wait(30)
        self.done.append(number)

    def listeners(self) -> int:
        return int(self.client.pubsub_numsub(self.channel)[0][1])

    def start(self) -> None:
        self.worker.start()
        wait_until(lambda: self.listeners() == 1, description="the listener")


@pytest.fixture
def jobs(database: str) -> Iterator[Jobs]:
    jobs = Jobs(shared_client())
    yield jobs
    jobs.may_go_on.set()
    jobs.worker.stop()


def is_idle(jobs: Jobs) -> bool:
    consumers = [thread.consumer for thread in jobs.worker.consumers.values()]
    return len(consumers) == 2 and all(
        isinstance(consumer, wake_ups._WakeUpConsumer) and not consumer._has_more and not consumer._event.is_set()
        for consumer in consumers
    )


def test_a_message_wakes_a_consumer_that_would_not_poll_again(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake_ups, "POLL_SECONDS", NEVER)
    jobs.start()
    for number in range(3):
        wait_until(lambda: is_idle(jobs), description="an idle consumer")
        jobs.actor.send(number)
        wait_until(lambda: len(jobs.done) == number + 1, description="the job")  # noqa: B023
    wait_until(lambda: is_idle(jobs), description="an idle consumer")
    jobs.actor.send_with_options(args=(3,), delay=100)
    wait_until(lambda: jobs.done == [0, 1, 2, 3], description="the delayed job")


def test_a_job_that_ends_makes_room_for_the_next_message(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake_ups, "POLL_SECONDS", NEVER)
    jobs.worker = dramatiq.Worker(jobs.broker, worker_threads=1, worker_timeout=50)
    jobs.worker.queue_prefetch = 1
    jobs.start()
    jobs.may_go_on.clear()
    for number in range(4):
        jobs.actor.send(number)
    wait_until(lambda: is_idle(jobs), description="a consumer whose only message is in progress")
    jobs.may_go_on.set()
    wait_until(lambda: sorted(jobs.done) == [0, 1, 2, 3], description="all jobs")


def test_a_consumer_polls_when_its_announcements_are_lost(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.start()
    wait_until(lambda: is_idle(jobs), description="an idle consumer")
    monkeypatch.setattr(jobs.broker._announcements, "announce", lambda _: None)
    jobs.actor.send(1)
    wait_until(lambda: jobs.done == [1], description="the job")


def test_messages_are_announced_again_after_the_connection_was_lost(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake_ups, "POLL_SECONDS", NEVER)
    others = {client["id"] for client in jobs.client.client_list(_type="pubsub")}
    jobs.start()
    (listener,) = {client["id"] for client in jobs.client.client_list(_type="pubsub")} - others
    jobs.client.client_kill_filter(_id=listener)
    jobs.actor.send(1)
    wait_until(lambda: jobs.done == [1], description="the job, which was not announced")
    wait_until(lambda: jobs.listeners() == 1, description="the listener again")
    wait_until(lambda: is_idle(jobs), description="an idle consumer")
    jobs.actor.send(2)
    wait_until(lambda: jobs.done == [1, 2], description="the job after it")


def test_a_process_that_begins_to_listen_fetches_messages_that_came_before(jobs: Jobs) -> None:
    assert wake_ups.Announcements(jobs.client, jobs.channel).event("jobs").wait(10)


def test_a_message_is_sent_although_it_cannot_be_announced(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise redis.ConnectionError("gone")

    jobs.start()
    monkeypatch.setattr(jobs.client, "publish", refuse)
    jobs.actor.send(1)
    wait_until(lambda: jobs.done == [1], description="the job")


def is_up(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_consumer_thread_survives_when_redis_goes_while_a_delayed_message_is_due(tmp_path: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        [str(valkey_program()), "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    try:
        jobs = Jobs(redis.Redis(port=port))
        wait_until(lambda: is_up(jobs.client), description="the server")
        for number in range(2):
            jobs.actor.send_with_options(args=(number,), delay=60_000)
        consumer = jobs.broker.consume("jobs.DQ", prefetch=2)
        fetched = [message for message in (next(consumer), next(consumer)) if message]
        assert len(fetched) == 2
    finally:
        server.kill()
        server.wait()
    with pytest.raises(BrokerConnectionError):
        jobs.broker.enqueue(fetched[0].copy(queue_name="jobs"))
    with pytest.raises(BrokerConnectionError):
        consumer.requeue(fetched)
