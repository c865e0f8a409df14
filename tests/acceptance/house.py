"""The product as a user runs it: one router in local mode, its data folder, its replicas."""

import hashlib
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess

import requests

import processes
from patience import eventually

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Debug binaries on two busy cores; all of these are many times what an idle machine takes.
READY_SECONDS = 60
STOP_SECONDS = 30
REPLICAS_GONE_SECONDS = 15
CALL_SECONDS = 120


def debug_binary(variable, name):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    binary = pathlib.Path(os.environ.get(variable, target / "debug" / name))
    assert binary.is_file(), f"{binary} is not there: build it (cargo build) or name one in {variable}"
    return binary


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy_manifests(folder: pathlib.Path):
    """The repository's manifests in a folder of their own; EMULSION_DEMO_MODEL may name another demo model than theirs."""
    folder.mkdir()
    model = pathlib.Path(os.environ.get("EMULSION_DEMO_MODEL", REPOSITORY / "models" / "demo")).resolve()
    for manifest in (REPOSITORY / "models").glob("*.yaml"):
        (folder / manifest.name).write_text(manifest.read_text().replace("file://./demo", f"file://{model}"))
    return folder


class House:
    """A router on a free port. `settings` are EMULSION_* variables without their prefix."""

    def __init__(self, folder: pathlib.Path, manifests=None, **settings):
        self.manifests = manifests or REPOSITORY / "models"
        if not manifests and "EMULSION_DEMO_MODEL" in os.environ:
            self.manifests = copy_manifests(folder / "manifests")
        self.binary = debug_binary("EMULSION_ROUTER", "emulsion-router")
        self.data = folder / "data"
        self.log = folder / "router.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Only what this house is told: a variable of the caller's shell must not change a test.
        self.environment = {
            name: value for name, value in os.environ.items() if name == "EMULSION_RUNTIME" or not name.startswith("EMULSION_")
        }
        self.environment |= {f"EMULSION_{name.upper()}": str(value) for name, value in settings.items()}
        self.process = None
        self.replicas_seen = set()

    def start(self):
        """Starts the router and waits until it takes calls."""
        command = [self.binary, "local", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.data]
        command += ["--manifests", self.manifests]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=REPOSITORY)
        eventually(f"the router is ready (its log: {self.log})", self.is_ready, READY_SECONDS)
        return self

    def is_ready(self):
        assert self.process.poll() is None, f"the router ended at its start:\n{self.log_text()}"
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def log_text(self):
        return self.log.read_text(errors="replace")

    def key(self, plan="enterprise", tenant=None):
        """A new key, made while the router runs; a tenant of its own unless one is named."""
        tenant = tenant or f"tenant-{os.urandom(6).hex()}"
        command = [self.binary, "key", "create", "--tenant", tenant, "--plan", plan]
        command += ["--data-dir", self.data, "--manifests", self.manifests]
        made = subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=READY_SECONDS
        )
        assert made.returncode == 0, made.stderr
        assert re.fullmatch(r"\S{32,}\n", made.stdout), "stdout is not a key alone"
        return made.stdout.strip()

    def replicas(self):
        """Ids of the replicas that run now."""
        found = processes.runtimes_below(self.process.pid)
        self.replicas_seen.update(found)
        return found

    def working_replica(self, cpu_seconds=1.0):
        """Waits for a replica that has computed for a while, and returns its id."""
        busy = lambda: [pid for pid in self.replicas() if processes.cpu_seconds(pid) > cpu_seconds]
        return eventually("a replica works", busy, CALL_SECONDS)[0]

    def kill(self):
        """kill -9 of the router alone."""
        self.replicas()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def stop(self):
        """Asks the router to end, as a service manager would; no replica may be left."""
        if self.process and self.process.poll() is None:
            self.replicas()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            finally:
                self.process.kill()
        self.assert_no_replica_is_left()

    def assert_no_replica_is_left(self):
        try:
            eventually(
                "the replicas of a router that ended are gone",
                lambda: not any(processes.is_running(pid) for pid in self.replicas_seen),
                REPLICAS_GONE_SECONDS,
            )
        finally:
            for pid in filter(processes.is_running, self.replicas_seen):
                os.kill(pid, signal.SIGKILL)

    def post(self, path, body=None, **options):
        options.setdefault("timeout", CALL_SECONDS)
        return requests.post(f"{self.url}{path}", json=body, **options)

    def get(self, path, **options):
        options.setdefault("timeout", CALL_SECONDS)
        return requests.get(f"{self.url}{path}", **options)

    def usage(self, key):
        """{"calls", "images"} the tenant of this key has been charged with, read where the router keeps its books."""
        books = sqlite3.connect(f"file:{self.data}/emulsion.sqlite?mode=ro", uri=True, timeout=10)
        try:
            [tenant, images] = books.execute(
                "select tenants.id, images from tenants join keys on keys.tenant = tenants.id where hash = ?",
                [hashlib.sha256(key.encode()).digest()],
            ).fetchone()
            # One row for the day and one for the month; they differ only when a test meets midnight.
            [calls] = books.execute("select coalesce(max(calls), 0) from usage where tenant = ?", [tenant]).fetchone()
        finally:
            books.close()
        return {"calls": calls, "images": images}

    def metric(self, name, **labels):
        """Sum of a metric's samples that have these labels; 0 where none has."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if re.match(rf"{name}(\{{|$)", series) and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total
