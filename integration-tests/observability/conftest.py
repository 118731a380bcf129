"""What the tests with real processes share: made once, for it takes a while."""

import signal

import pytest


def pytest_configure():
    # As Ctrl-C does: then fixtures end what they started. (A shell has its background jobs ignore SIGINT.)
    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    # Here, for what needs no processes needs no stubs either.
    from world import World

    made = World(tmp_path_factory.mktemp("world"))
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def calls_go_well(world):
    """The applications beside the sidecars meet nothing that they should not."""
    yield
    assert not world.load.errors, "\n".join([*world.load.errors, *(sidecar.tail() for sidecar in world.sidecars)])
