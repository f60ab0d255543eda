import hashlib

import pytest

from moecompress.calibration.options import CalibrationOptions
from moecompress.calibration.texts import calibration_tokens
from moecompress.models.discover import discover
from moecompress.models.source import TensorSource


class Model:
    """A tiny checkpoint, opened, with calibration tokens for it."""

    def __init__(self, folder, **options):
        self.folder = folder
        self.source = TensorSource.open(folder)
        self.layout = discover(self.source)
        settings = {"tokens": 1024, "sequence_length": 64, **options}
        self.tokens = calibration_tokens(CalibrationOptions(**settings), self.source)


@pytest.fixture(scope="session")
def open_model():
    """open_model(folder, **calibration options) → a Model."""
    return Model


@pytest.fixture(scope="session")
def opened(tiny):
    """opened(family, **config) → a Model of the tiny checkpoint of that family, made once per set of arguments."""
    made = {}

    def open_tiny(family, **config):
        folder = tiny(family, **config)
        if folder not in made:
            made[folder] = Model(folder)
        return made[folder]

    return open_tiny


def digests(folder):
    """Relative path → sha256 of every file below a folder, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def content():
    return digests
