"""The running house that most tests share, and fresh ones for those that break it."""

import socket

import pytest

from house import House


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """One router for every test that leaves it as it was."""
    running = House(tmp_path_factory.mktemp("house"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session", autouse=True)
def stalled_callers(request):
    """Connections, by path, that began a body before the first test and never end it. The router cuts such a caller off after
    half a minute, which passes while other tests run."""
    if not any("house" in item.fixturenames for item in request.session.items):
        yield {}
        return
    house = request.getfixturevalue("house")
    connections = {}
    for path in ["/api/v7/images/text-to-image", "/v1/images/generations"]:
        connection = socket.create_connection(("127.0.0.1", house.port), timeout=60)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b'{"prompt": "a red')
        connections[path] = connection
    yield connections
    for connection in connections.values():
        connection.close()


@pytest.fixture
def fresh_house(tmp_path):
    """Makes routers of a test's own, with settings of its own; all of them end with the test."""
    made = []

    def start(**settings):
        made.append(House(tmp_path, **settings))
        return made[-1].start()

    yield start
    for running in made:
        running.stop()


@pytest.fixture
def key(house):
    """A key of a tenant that nobody else uses."""
    return house.key()
