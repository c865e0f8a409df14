"""A real S3 server of a test's own: on loopback, over a temporary folder, gone with the test."""

import contextlib
import os
import pathlib
import socket
import socketserver
import ssl
import subprocess
import threading

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


class Door(socketserver.BaseRequestHandler):
    """Takes TLS off, and passes everything on to the server behind it."""

    def handle(self):
        with contextlib.suppress(OSError, ssl.SSLError), socket.create_connection(("127.0.0.1", self.server.inner_port)) as inner:
            outer = self.server.context.wrap_socket(self.request, server_side=True)
            self.server.opened += 1
            back = threading.Thread(target=pass_on, args=(inner, outer), daemon=True)
            back.start()
            pass_on(outer, inner)
            back.join(STOP_SECONDS)


def pass_on(source, sink):
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Tls(socketserver.ThreadingTCPServer):
    """The server's address by https; `opened` counts the connections that were made so."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, inner_port, certificates):
        super().__init__(("127.0.0.1", 0), Door)
        self.inner_port, self.context, self.opened = inner_port, certificates.context(), 0
        self.url = f"https://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
