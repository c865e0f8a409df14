"""A certificate authority of a test's own, and a certificate for loopback that it signed."""

import pathlib
import shutil
import ssl
import subprocess

import pytest


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


class Certificates:
    def __init__(self, folder: pathlib.Path):
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl")
        folder.mkdir()
        key, self.authority = folder / "authority.key", folder / "authority.pem"
        openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.authority, "-days", "2",
            "-subj", "/CN=acceptance authority", "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip
        self.key, request, self.certificate = folder / "server.key", folder / "server.csr", folder / "server.pem"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", self.key, "-out", request, "-subj", "/CN=loopback")
        extensions = folder / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        openssl(
            "x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", key, "-CAcreateserial", "-days", "2",
            "-extfile", extensions, "-out", self.certificate,
        )  # fmt: skip

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context
