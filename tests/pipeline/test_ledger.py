import pytest

from moecompress.core.errors import CoverageError
from moecompress.pipeline.ledger import KEPT, check_sources, fates


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
