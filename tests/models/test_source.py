import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from moecompress.core.errors import SourceError
from moecompress.core.memory import rss_bytes
from moecompress.models import source as source_module
from moecompress.models.source import TensorSource


def reference(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("sharded", [False, True])
def test_reads_what_the_files_hold(tiny, sharded):
    folder = tiny("olmoe", sharded=sharded)
    source, wanted = TensorSource.open(folder), reference(folder)
    assert len(source.shards) == (1 if not sharded else len(list(folder.glob("*.safetensors"))))
    assert source.names == tuple(sorted(wanted))
    for name, value in wanted.items():
        assert source.shape(name) == tuple(value.shape)
        assert source.dtype(name) == value.dtype == torch.bfloat16
        assert source.nbytes(name) == value.nbytes
        assert torch.equal(source.read(name), value)


def test_reads_rows(tiny):
    folder = tiny("mixtral", fused=True)
    source, name = TensorSource.open(folder), "model.layers.1.mlp.experts.gate_up_proj"
    wanted = reference(folder)[name]
    assert torch.equal(source.read(name, 5), wanted[5])
    assert torch.equal(source.read(name, slice(2, 4)), wanted[2:4])
    assert torch.equal(source.read(name, slice(6, None)), wanted[6:])
    assert source.read(name, slice(3, 3)).shape == (0, *wanted.shape[1:])
    with pytest.raises(SourceError, match="has no row 8"):
        source.read(name, 8)
    with pytest.raises(SourceError, match="step 2"):
        source.read(name, slice(0, 8, 2))


def test_pieces_join_without_seams(tiny, monkeypatch):
    folder = tiny("olmoe")
    monkeypatch.setattr(source_module, "RENEW_BYTES", 3 * 64 * 2 + 1)
    name = "model.embed_tokens.weight"
    assert torch.equal(TensorSource.open(folder).read(name), reference(folder)[name])


def test_what_is_read_is_a_copy(tiny):
    source = TensorSource.open(tiny("olmoe"))
    first = source.read("model.norm.weight")
    wanted = first.clone()
    first.zero_()
    source.close()
    assert torch.equal(source.read("model.norm.weight"), wanted)


def test_scalar_and_integer_tensors(tmp_path):
    save_file({"scale": torch.tensor(2.5), "table": torch.arange(6).reshape(3, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    source = TensorSource.open(tmp_path)
    assert source.read("scale") == torch.tensor(2.5)
    assert source.shape("scale") == () and source.nbytes("scale") == 4
    assert source.read("table", 1).tolist() == [2, 3]


def test_unknown_name_is_named(tiny):
    source = TensorSource.open(tiny("olmoe"))
    assert "model.norm.weight" in source and "model.nothing" not in source
    with pytest.raises(SourceError, match=r"model\.nothing"):
        source.read("model.nothing")


def test_assets_are_the_tokenizer_files(tiny):
    assets = TensorSource.open(tiny("olmoe")).assets
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= set(assets)
    assert "config.json" not in assets and not any(name.endswith(".safetensors") for name in assets)


def test_hash_depends_on_weights_and_config(tiny, tiny_copy):
    original, copy = TensorSource.open(tiny("olmoe")), tiny_copy("olmoe")
    assert TensorSource.open(copy).content_hash() == original.content_hash()
    counted = []
    original.content_hash(counted.append)
    assert sum(counted) == sum(path.stat().st_size for path in original.shards)

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    changed_config = TensorSource.open(copy).content_hash()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert len({original.content_hash(), changed_config, TensorSource.open(copy).content_hash()}) == 3


def test_resident_memory_stays_bounded(tmp_path):
    """A shard is several times larger than what may stay mapped; mapped pages would count as resident."""
    big = {f"layer.{index}": torch.full((1024, 4096), float(index), dtype=torch.bfloat16) for index in range(24)}
    save_file(big, tmp_path / "model.safetensors")
    del big
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    source = TensorSource.open(tmp_path)
    source.read("layer.0")
    before = rss_bytes()
    peak = 0
    for name in source.names:
        source.read(name)
        peak = max(peak, rss_bytes())
    assert sum(map(source.nbytes, source.names)) == 24 * (8 << 20)
    assert peak - before < 80 << 20
