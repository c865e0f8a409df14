"""A publisher of weights of a test's own, on loopback: a Hugging Face hub as far as imports ask for it, and a plain file server beside it."""

import hashlib
import http.server
import json
import pathlib
import re
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folders as repositories. What tests change about it is in its attributes."""

    def __init__(self, context=None):
        self.repositories = {}
        # File → digest that it is listed with, in place of its own.
        self.listed = {}
        # Path → bytes, beside all repositories.
        self.files = {}
        # Repositories that answer only who says this.
        self.token = None
        # (path, authorization, range) of every request.
        self.requests = []
        # Connections break after so many bytes of a file; None: never.
        self.break_after = None
        # So many of them; None: all.
        self.breaks_left = None
        self.knows_ranges = True
        # Waited for before each piece of a large file.
        self.gate = threading.Event()
        self.gate.set()
        # Path → (status, location).
        self.redirects = {}
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """Clients that go away are part of the tests."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = self.url.replace("http://", "https://")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def add(self, repository, folder: pathlib.Path):
        self.repositories[repository] = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    def answer(self, handler):
        path, _, query = handler.path.partition("?")
        path = urllib.parse.unquote(path)
        authorization = handler.headers.get("Authorization")
        self.requests.append((path, authorization, handler.headers.get("Range")))
        if path in self.redirects:
            status, location = self.redirects[path]
            return self.send(handler, status, b"", {"Location": location})
        if path in self.files:
            return self.send_file(handler, self.files[path])
        for repository, files in self.repositories.items():
            if self.token and authorization != f"Bearer {self.token}":
                if repository in path:
                    return self.send(handler, 401, b"who are you?")
                continue
            if path == f"/api/models/{repository}/revision/main":
                return self.send(handler, 200, json.dumps({"sha": COMMIT}).encode())
            if path == f"/api/models/{repository}/tree/{COMMIT}":
                return self.send_tree(handler, files, "page2" in query)
            if found := re.fullmatch(rf"/{repository}/resolve/{COMMIT}/(.+)", path):
                if (content := files.get(found[1])) is not None:
                    return self.send_file(handler, content)
        return self.send(handler, 404, b"nothing here")

    def send_tree(self, handler, files, second):
        """In two pages, as large repositories have them."""
        names = sorted(files)
        half = len(names) // 2
        entries = [
            {
                "type": "file",
                "path": name,
                "size": len(files[name]),
                **({"lfs": {"oid": self.listed.get(name) or hashlib.sha256(files[name]).hexdigest()}} if name.endswith(".safetensors") else {}),
            }
            for name in (names[half:] if second else names[:half])
        ]
        link = {} if second else {"Link": f'<{self.url}{handler.path}&page2=1>; rel="next"'}
        return self.send(handler, 200, json.dumps(entries).encode(), link)

    def send(self, handler, status, body, headers=None):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def send_file(self, handler, content):
        begin = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if wanted and self.knows_ranges and int(wanted[1]) < len(content):
            begin = int(wanted[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - begin))
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.end_headers()
        sent = 0
        piece = 1 << 18
        while begin + sent < len(content):
            if begin + sent > piece:
                self.gate.wait()
            if self.break_after is not None and sent >= self.break_after and self.breaks_left != 0:
                self.breaks_left = None if self.breaks_left is None else self.breaks_left - 1
                handler.close_connection = True
                handler.connection.close()
                return
            sent += handler.wfile.write(content[begin + sent : begin + sent + piece])
