import json
import resource
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from moecompress.core.errors import MoecompressError, UsageError
from moecompress.models.discover import discover
from moecompress.models.experts import read_expert
from moecompress.models.source import TensorSource
from moecompress.models.write import relaid, write_checkpoint


@pytest.fixture
def rewrite(tiny):
    def write(folder, family="mixtral", code="C2", **options):
        source = TensorSource.open(tiny(family))
        layout = relaid(discover(source), code)
        read = partial(read_layer_expert, source, discover(source))
        return write_checkpoint(folder, source.config, layout, source.read, read, assets=source.assets, **options)

    return write


def read_layer_expert(source, layout, layer, expert):
    return read_expert(source, layout.moe[layer], expert)


def test_one_file_when_it_fits(tiny, tmp_path, rewrite):
    folder = rewrite(tmp_path / "out")
    original = tiny("mixtral")
    written = {path.name for path in folder.iterdir()}
    assert written == {path.name for path in original.iterdir()}
    assert json.loads((folder / "config.json").read_text()) == json.loads((original / "config.json").read_text())
    assert (folder / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
    wanted, found = load_file(original / "model.safetensors"), load_file(folder / "model.safetensors")
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_shards_stay_below_the_limit(tmp_path, rewrite):
    folder = rewrite(tmp_path / "out", max_shard_bytes=100_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2 and sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [sum(value.nbytes for value in load_file(folder / file).values()) for file in files]
    assert max(sizes) <= 100_000 and index["metadata"]["total_size"] == sum(sizes)


def test_stacked_on_disk(tmp_path, rewrite):
    source = TensorSource.open(rewrite(tmp_path / "out", code="C4"))
    assert source.shape("model.layers.0.block_sparse_moe.experts.gate_up_proj") == (8, 64, 64)
    assert discover(source).moe[0].layout.stacked


def test_unknown_layout_code(tiny):
    with pytest.raises(UsageError, match="Known: C1, C2, C4"):
        relaid(discover(TensorSource.open(tiny("olmoe"))), "C9")


def test_existing_folder_is_not_touched(tmp_path, rewrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        rewrite(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.fixture
def full_disk():
    """No file may grow beyond 64 KiB, as on a disk that fills up while it is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_nothing(tmp_path, rewrite, full_disk):
    with pytest.raises(MoecompressError, match=r"could not be written.*Nothing was left behind"):
        rewrite(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_reader_leaves_nothing(tiny, tmp_path):
    source = TensorSource.open(tiny("olmoe"))
    layout = discover(source)

    def broken(layer, expert):
        raise RuntimeError("the reader failed")

    with pytest.raises(RuntimeError, match="the reader failed"):
        write_checkpoint(tmp_path / "out", source.config, layout, source.read, broken)
    assert list(tmp_path.iterdir()) == []
