"""Specs by name: parsing, refusals with the nearest name, and the keys used in tables."""

import pytest

from moecompress.codecs.affine import AffineSpec
from moecompress.codecs.dense import DenseSpec
from moecompress.codecs.table import codec_of, codecs, parse_spec
from moecompress.core.errors import ArtifactError


def test_keys_are_the_ones_of_the_format():
    assert AffineSpec(bits=4, group_size=64).key == "affine4g64"
    assert DenseSpec(dtype="bf16").key == "densebf16" and DenseSpec(dtype="f32").key == "densef32"


def test_codecs_are_found_by_folder_scan():
    assert {"affine", "dense"} <= set(codecs())
    assert codec_of(AffineSpec(bits=1, group_size=32)) is codecs()["affine"]


def test_unknown_codec_names_the_nearest():
    with pytest.raises(ArtifactError, match=r"Unknown codec 'afine'\. Did you mean 'affine'"):
        parse_spec({"codec": "afine", "bits": 4, "group_size": 64})


@pytest.mark.parametrize("name", [None, 3, ["affine"], "", "table", "__class__"])
def test_a_codec_must_be_a_known_name(name):
    with pytest.raises(ArtifactError, match="Unknown codec"):
        parse_spec({"codec": name})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"bits": 0}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": "4"}, "bits"),
        ({"bits": True}, "bits"),
        ({"bits": 2**80}, "bits"),
        ({"group_size": 48}, "group_size"),
        ({"extra": 1}, "extra"),
    ],
)
def test_bad_parameters_are_named(change, where):
    with pytest.raises(ArtifactError, match=f"Bad parameter '{where}' of codec 'affine'"):
        parse_spec({"codec": "affine", "bits": 4, "group_size": 64, **change})
