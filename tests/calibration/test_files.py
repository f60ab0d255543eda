import mmap

import numpy as np
import pytest
import torch

from moecompress.calibration.files import ArrayWriter, bf16_bits, from_bf16_bits, map_array, take
from moecompress.core.errors import CalibrationError


def written(path, *parts, shape):
    writer = ArrayWriter(path, np.float32, shape)
    for part in parts:
        writer.append(part)
    writer.close()
    return map_array(path)


def test_rows_come_back_and_are_copies(tmp_path):
    values = np.arange(3000, dtype=np.float32).reshape(1000, 3)
    mapped = written(tmp_path / "a.npy", values[:400], values[400:], shape=(1000, 3))
    assert isinstance(mapped.base, mmap.mmap)
    assert np.array_equal(take(mapped, slice(10, 20)), values[10:20])
    rows = np.array([0, 999, 500])
    assert np.array_equal(take(mapped, rows), values[rows])
    assert take(mapped, slice(0, 1)).flags.writeable
    assert np.array_equal(np.load(tmp_path / "a.npy"), values)


def test_an_array_without_rows(tmp_path):
    assert written(tmp_path / "a.npy", shape=(0, 3)).shape == (0, 3)


def test_missing_rows_are_an_error(tmp_path):
    with pytest.raises(CalibrationError, match="2 rows short"):
        written(tmp_path / "a.npy", np.zeros((1, 3), np.float32), shape=(3, 3))


@pytest.mark.parametrize("keep", [0, 40, 200])
def test_truncated_files_are_damaged(tmp_path, keep):
    written(tmp_path / "a.npy", np.zeros((50, 3), np.float32), shape=(50, 3))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(CalibrationError, match="is damaged"):
        map_array(tmp_path / "a.npy")


def test_bfloat16_bits_round_trip():
    values = torch.randn(100)
    assert torch.equal(from_bf16_bits(bf16_bits(values)), values.to(torch.bfloat16).float())
