"""A scripted model for all of these tests, and a separate home for each."""

import pytest
from shards import model_server, served


@pytest.fixture(scope="session")
def model():
    with model_server() as found:
        yield found


@pytest.fixture
def offline(model):
    with served(model) as found:
        yield found
