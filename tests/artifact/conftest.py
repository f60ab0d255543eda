import shutil

import pytest

from moecompress.testing.artifacts import random_artifact


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    """A sound artifact that no test may change."""
    root = tmp_path_factory.mktemp("artifact")
    random_artifact(root / "work", root / "sound")
    return root / "sound"


@pytest.fixture
def artifact(sound, tmp_path):
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "artifact")
