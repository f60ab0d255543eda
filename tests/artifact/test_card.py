"""The model card and the evaluation attached to an artifact."""

import math

import pytest
import yaml

from moecompress.artifact.builder import artifact_bytes
from moecompress.artifact.card import attach_evaluation
from moecompress.artifact.reader import read_manifest
from moecompress.artifact.verify import verify
from moecompress.core.errors import ArtifactError

EVALUATION = {
    "original": {"perplexity": 12.25, "stderr": 0.125, "kl_mean": None, "bytes": 84_000},
    "artifact": {"perplexity": 13.5, "stderr": 0.25, "kl_mean": 0.0125, "top1_agreement": 0.9375},
    "windows": 8,
}


def card(folder):
    return (folder / "README.md").read_text()


def test_front_matter_is_yaml(sound):
    _, front, rest = card(sound).split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "moecompress" and rest.startswith("# mixtral, compressed")


def test_card_states_the_real_total(sound):
    assert f"{artifact_bytes(sound):,} bytes" in card(sound)
    assert "## Measured" not in card(sound)


def test_card_lists_every_codec_with_its_effective_bits(sound):
    assert "| experts, up | affine4g32 | 1 | 8.00 | 1,920 |" in card(sound)
    assert "| trunk | densebf16 | 3 |" in card(sound)


def test_attaching_keeps_the_hash_and_every_promise(artifact):
    before = read_manifest(artifact)
    returned = attach_evaluation(artifact, EVALUATION)
    after = read_manifest(artifact)
    assert returned == after and after.evaluation == EVALUATION
    assert after.artifact_hash == before.artifact_hash and after.checksum != before.checksum
    assert after.size.bytes == artifact_bytes(artifact) > before.size.bytes
    verify(artifact)
    assert sorted(path.name for path in artifact.iterdir()) == sorted([*after.files, "manifest.json"])


def test_measured_table(artifact):
    attach_evaluation(artifact, EVALUATION)
    total, bits = artifact_bytes(artifact), read_manifest(artifact).size.bits_per_weight
    assert (
        "| model | bytes on disk | bits/weight | perplexity | ± standard error | mean KL | same top-1 |\n"
        "|---|---|---|---|---|---|---|\n"
        "| original | 84,000 | – | 12.250 | 0.125 | – | – |\n"
        f"| artifact | {total:,} | {bits:.2f} | 13.500 | 0.250 | 0.0125 | 93.75% |\n"
    ) in card(artifact)


def test_attaching_twice_replaces(artifact):
    attach_evaluation(artifact, EVALUATION)
    once = (artifact / "manifest.json").read_bytes()
    attach_evaluation(artifact, {"note": "x" * 10_000})
    attach_evaluation(artifact, EVALUATION)
    assert (artifact / "manifest.json").read_bytes() == once
    verify(artifact)


def test_a_kill_between_the_two_files_is_repaired_by_attaching_again(artifact, monkeypatch):
    from moecompress.artifact import card as module

    write = module.write_file

    def killed(path, data):
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        return write(path, data)

    monkeypatch.setattr(module, "write_file", killed)
    with pytest.raises(KeyboardInterrupt):
        attach_evaluation(artifact, EVALUATION)
    monkeypatch.undo()
    assert read_manifest(artifact).evaluation is None
    attach_evaluation(artifact, EVALUATION)
    verify(artifact)


@pytest.mark.parametrize(
    "bad", [{"perplexity": math.nan}, {"perplexity": math.inf}, {"x": object()}, [1], {"x": b"y"}, {"x": "\ud800"}]
)
def test_figures_that_are_not_json_are_refused_and_nothing_changes(artifact, bad):
    before = (artifact / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="An evaluation must be"):
        attach_evaluation(artifact, bad)
    assert (artifact / "manifest.json").read_bytes() == before
    verify(artifact)


@pytest.mark.parametrize("length", range(0, 1200, 37))
def test_the_total_is_exact_for_any_length_of_text(artifact, length):
    attach_evaluation(artifact, {"note": "x" * length})
    assert read_manifest(artifact).size.bytes == artifact_bytes(artifact)
