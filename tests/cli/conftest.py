import sys

import cli_driver
import pytest

from trio_codex.testing import MockModel, write_offline_home


@pytest.fixture(scope="package", autouse=True)
def forks():
    """Run commands in forks of one interpreter, which needs Linux."""
    if sys.platform != "linux":
        yield
        return
    cli_driver.forks = cli_driver.Forks()
    yield
    cli_driver.forks.close()
    cli_driver.forks = None


@pytest.fixture
async def model():
    async with MockModel() as model:
        yield model


@pytest.fixture
def home(model, tmp_path):
    return write_offline_home(tmp_path, model)
