"""`patina worker`."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib import import_module

import typer

from cli.readiness import check_readiness
from runtime.settings import settings

app = typer.Typer(add_completion=False)


@app.command()
def worker() -> None:
    """Run the background worker."""
    check_readiness("xero_client_id", "xero_client_secret")
    if port := settings().worker_metrics_port:
        _enable_metrics(settings().metrics_host, port)
    _configure_dramatiq(settings().worker_threads)
    # Imported after its environment variables are set.
    from dramatiq.cli import main, make_argument_parser

    _import_jobs()
    arguments = ["worker.jobs.actors:broker", "--processes", str(settings().worker_processes)]
    arguments += ["--threads", str(settings().worker_threads), "--worker-shutdown-timeout", "25000"]
    sys.exit(main(make_argument_parser().parse_args(arguments)))


def _import_jobs() -> None:
    """Import all code before the worker processes are forked, so that they share its memory.

    Frozen objects are left alone by garbage collections, which would copy the pages that they are on.
    """
    import_module("worker.jobs.actors")
    gc.collect()
    gc.freeze()


def _configure_dramatiq(threads: int) -> None:
    """Set the environment variables that Dramatiq reads once, when it is imported.

    A process prefetches `dramatiq_queue_prefetch` messages per queue, including those in progress. One per thread keeps
    all threads busy, and leaves to other processes what this one could not start. An idle consumer polls again after
    `dramatiq_worker_timeout` milliseconds.
    """
    assert "dramatiq" not in sys.modules
    os.environ.update(dramatiq_queue_prefetch=str(threads), dramatiq_worker_timeout="50")


def _enable_metrics(host: str, port: int) -> None:
    """Let the worker processes count in files, which another Dramatiq process aggregates and serves.

    Both libraries read these environment variables when they are imported.
    """
    folder = tempfile.mkdtemp(prefix="patina-metrics-")
    parent_pid = os.getpid()

    def remove_folder() -> None:
        if os.getpid() == parent_pid:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove_folder)
    os.environ.update(
        PROMETHEUS_MULTIPROC_DIR=folder, dramatiq_prom_db=folder, dramatiq_prom_host=host, dramatiq_prom_port=str(port)
    )
