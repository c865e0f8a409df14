"""A real PostgreSQL of a test's own: on loopback, in a temporary folder, gone with the test."""

import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile

from house import free_port
from patience import eventually

# Where Debian puts the server's programs, by version.
DEBIAN_PROGRAMS = pathlib.Path("/usr/lib/postgresql")
PROGRAMS = ("initdb", "pg_isready", "postgres", "psql")
READY_SECONDS = 60
STOP_SECONDS = 30


def programs():
    """The folder with the server's programs; None where there is none."""
    folders = [*DEBIAN_PROGRAMS.glob("*/bin"), *map(pathlib.Path, os.environ.get("PATH", "").split(os.pathsep))]
    return max((folder for folder in folders if all((folder / name).is_file() for name in PROGRAMS)), default=None)


class Postgres:
    def __init__(self):
        self.programs = programs()
        # Not below the test's own folder, which only root may enter.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="emulsion-postgres-"))
        self.port = free_port()
        self.url = f"postgres://emulsion@127.0.0.1:{self.port}/postgres"
        self.process = None
        # The server refuses to run as root.
        self.user = {}
        if os.geteuid() == 0:
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = names.get("postgres") or names["nobody"]
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(
            [self.programs / "initdb", "--pgdata", self.folder / "data", "--username", "emulsion", "--auth", "trust", "--no-sync"],
            check=True, capture_output=True, timeout=READY_SECONDS, cwd=self.folder, **self.user,
        )

    def start(self):
        command = [self.programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-k", self.folder]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self.user)
        eventually(f"PostgreSQL answers (its log: {self.folder / 'log'})", self.answers, READY_SECONDS)
        return self

    def answers(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return subprocess.run([self.programs / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)]).returncode == 0

    def crash(self):
        """The immediate end of all its processes: what was not committed is lost, as with `kill -9`, but no child outlives it."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(STOP_SECONDS)

    def ask(self, statement):
        """The rows of a statement, as texts."""
        command = [self.programs / "psql", self.url, "-At", "-F", "\t", "-c", statement]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=READY_SECONDS).stdout
        return [line.split("\t") for line in said.splitlines()]

    def remove(self):
        if self.process and self.process.poll() is None:
            self.crash()
        shutil.rmtree(self.folder)
