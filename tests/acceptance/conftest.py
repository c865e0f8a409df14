"""The running house that most tests share, and fresh ones for those that break it."""

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
