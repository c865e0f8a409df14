"""The running house that most tests share, and fresh ones for those that break it."""

import pytest

import postgres
from house import House, copy_manifests
from hub import Hub
from importing import DEMO, MODEL
from s3 import S3


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """One router for every test that leaves it as it was."""
    running = House(tmp_path_factory.mktemp("house"))
    try:
        yield running.start()
    finally:
        running.stop()


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


@pytest.fixture
def database():
    """A PostgreSQL of a test's own."""
    if postgres.programs() is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql)")
    server = postgres.Postgres()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def bucket(tmp_path):
    """An S3 server with one bucket."""
    server = S3(tmp_path / "s3")
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def start_routers(database, tmp_path):
    """Makes two routers that have in common the database, and what `settings` and `environment` say; they end with the test."""
    made = []

    def start(environment=None, **settings):
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            made.append(House(tmp_path / name, database_url=database.url, **settings))
            made[-1].environment |= environment or {}
        return [router.start() for router in made]

    yield start
    for router in made:
        router.stop()


@pytest.fixture
def hub():
    hub = Hub()
    hub.add("acme/demo", DEMO)
    yield hub
    hub.stop()


@pytest.fixture
def house_with(fresh_house, hub, tmp_path, monkeypatch):
    """A house that declares `imported` from the hub."""

    def start(uri="hf://acme/demo", more="", manifest="", **settings):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        manifests = copy_manifests(tmp_path / "manifests")
        (manifests / "imported.yaml").write_text(MODEL.format(uri=uri, more=more) + "---\n" + manifest)
        return fresh_house(manifests=manifests, import_allow_network="127.0.0.0/8", **settings)

    return start
