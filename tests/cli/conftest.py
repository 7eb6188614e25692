import pytest

from trio_codex.testing import MockModel, write_offline_home


@pytest.fixture
async def model():
    async with MockModel() as model:
        yield model


@pytest.fixture
def home(model, tmp_path):
    return write_offline_home(tmp_path, model)
