"""A real S3 server of a test's own: on loopback, over a temporary folder, gone with the test."""

import os
import pathlib
import socket
import subprocess

from house import debug_binary, free_port
from patience import eventually

READY_SECONDS = 60
STOP_SECONDS = 30
BUCKET = "images"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "acceptance", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-acceptance-tests"}


class S3:
    def __init__(self, folder: pathlib.Path):
        self.program = debug_binary("EMULSION_S3_SERVER", "examples/s3_server")
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        (folder / BUCKET).mkdir(parents=True)
        # What a router is told of it.
        self.settings = {"outputs": f"s3://{BUCKET}/acceptance", "s3_endpoint": self.url, "s3_path_style": "true"}

    def start(self):
        command = [self.program, f"127.0.0.1:{self.port}", self.folder]
        self.process = subprocess.Popen(command, env=os.environ | CREDENTIALS, stderr=subprocess.DEVNULL)
        eventually("the S3 server listens", self.listens, READY_SECONDS)
        return self

    def listens(self):
        assert self.process.poll() is None, "the S3 server ended at its start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def objects(self, folder):
        """The files below a folder of the prefix."""
        return [file for file in (self.folder / BUCKET / "acceptance" / folder).rglob("*") if file.is_file()]
