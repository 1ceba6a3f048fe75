"""Importing a module has no effects: it connects to nothing, starts nothing and reads no settings."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.processes import ROOT

PACKAGES = ("cli", "web", "webhooks", "services", "worker", "store", "runtime", "sandbox")
IMPORT_ALL = """
import importlib, pkgutil, sys, threading

EFFECTS = {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.mkdir", "_thread.start_new_thread"}

def refuse(event, arguments):
    if event in EFFECTS:
        raise RuntimeError(f"{event} {arguments} on import")

def names(package):
    yield package
    for module in pkgutil.walk_packages([package], f"{package}."):
        if not module.name.endswith("__main__"):
            yield module.name

def read_settings():
    raise RuntimeError("settings are read on import")

import runtime.settings
runtime.settings.settings = read_settings
sys.addaudithook(refuse)
modules = [name for package in sys.argv[1:] for name in names(package)]
for name in modules:
    importlib.import_module(name)
print(len(modules), threading.active_count())
"""


def test_importing_any_module_has_no_effects() -> None:
    completed = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL, *PACKAGES],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-2_000:]
    modules, threads = completed.stdout.split()
    assert int(modules) > 150
    assert threads == "1"
