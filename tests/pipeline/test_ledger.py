import pytest

from moecompress.core.errors import CoverageError
from moecompress.pipeline.ledger import KEPT, check_sources, fates, grouped


def test_every_source_tensor_is_claimed_exactly_once():
    check_sources(["a", "b"], ["b", "a"])


@pytest.mark.parametrize(
    ("claimed", "named"), [(["a"], "'b'"), (["a", "b", "b"], "'b'"), (["a", "b", "c"], "'c'"), ([], "'a'")]
)
def test_a_lost_repeated_or_invented_tensor_is_named(claimed, named):
    with pytest.raises(CoverageError, match=named):
        check_sources(["a", "b"], claimed)


def test_what_no_pass_changed_is_kept():
    assert fates(["x", "y"], {"y": "quantize.trunk"}) == {"x": KEPT, "y": "quantize.trunk"}


def test_a_claim_on_nothing_is_refused():
    with pytest.raises(CoverageError, match="'z'"):
        fates(["x"], {"z": "quantize.trunk"})


def test_experts_are_grouped_only_where_they_share_their_fate():
    outcome = {f"layers.0.experts.{e}.{p}": "q" for e in range(3) for p in ("gate", "up")} | {"a.weight": KEPT}
    assert grouped(outcome) == {"layers.0.experts.*.gate": "q", "layers.0.experts.*.up": "q", "a.weight": KEPT}
    outcome["layers.0.experts.1.up"] = KEPT
    mixed = grouped(outcome)
    assert mixed["layers.0.experts.*.gate"] == "q"
    assert (mixed["layers.0.experts.0.up"], mixed["layers.0.experts.1.up"]) == ("q", KEPT)
