"""The coverage ledger: every tensor of the source is claimed exactly once, and every parameter has one fate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from moecompress.core.errors import CoverageError

KEPT = "kept"
_EXPERT = re.compile(r"(layers\.\d+\.experts)\.\d+\.(\w+)")


def check_sources(all_names: Iterable[str], claimed: Iterable[str]) -> None:
    """Raises CoverageError naming the first source tensor that no unit read, or that two units read."""
    counts = Counter(claimed)
    for name in sorted(all_names):
        if counts[name] == 0:
            raise CoverageError(
                f"The source tensor {name!r} was read by no pass and would be lost. This is a bug of discovery."
            )
        if counts[name] > 1:
            raise CoverageError(f"The source tensor {name!r} was claimed {counts[name]} times; each is written once.")
    unknown = sorted(set(counts) - set(all_names))
    if unknown:
        raise CoverageError(f"{unknown[0]!r} was claimed, but the source has no tensor of that name.")


def fates(parameters: Iterable[str], claims: Mapping[str, str]) -> dict[str, str]:
    """Parameter → the passes that changed it, or `kept`. Raises CoverageError for a claim on an unknown parameter."""
    names = list(parameters)
    unknown = sorted(set(claims) - set(names))
    if unknown:
        raise CoverageError(f"{claims[unknown[0]]} claims {unknown[0]!r}, which this layer does not have.")
    return {name: claims.get(name, KEPT) for name in names}


def grouped(outcome: Mapping[str, str]) -> dict[str, str]:
    """The same fates with all experts of a layer as one entry (`layers.3.experts.*.gate`) where they agree."""
    groups: dict[str, dict[str, str]] = {}
    for name, fate in outcome.items():
        match = _EXPERT.fullmatch(name)
        groups.setdefault(f"{match[1]}.*.{match[2]}" if match else name, {})[name] = fate
    found: dict[str, str] = {}
    for group, members in groups.items():
        shared = set(members.values())
        found |= {group: shared.pop()} if len(shared) == 1 else members
    return found
