"""The results file: measurements by name, kept as they finish, and the headline keys made from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Measurements = Mapping[str, Mapping[str, Any]]
CAPPED = ("ratio", "disk_bytes_ratio", "ours_tps", "peer_tps", "rss_over_budget", "oom_kills", "hit_rate")


class Results:
    """A JSON file of measurements. What it holds is not measured again, unless the settings are others."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        plain = json.loads(json.dumps(dict(settings)))  # as the file will give them back
        self._values: dict[str, Any] = {"settings": plain, "measurements": {}}
        if path.is_file():
            found = json.loads(path.read_text())
            if found.get("settings") != self._values["settings"]:
                raise ValueError(
                    f"{path} holds measurements with other settings: {found.get('settings')}. Name another file."
                )
            self._values = found

    @property
    def measurements(self) -> dict[str, Any]:
        """What was measured, by name."""
        found: dict[str, Any] = self._values["measurements"]
        return found

    def describe(self, **values: Any) -> None:
        """Set keys beside the measurements, such as the machine, and save."""
        self._values |= values
        self.save()

    def measure(self, name: str, measurement: Callable[[], Mapping[str, Any]]) -> bool:
        """Run a measurement unless its result is there, and save. Whether it ran."""
        if name in self.measurements:
            return False
        self.measurements[name] = dict(measurement())
        self.save()
        return True

    def save(self) -> None:
        """Write the file, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(json.dumps({**self._values, **headline(self.measurements)}, indent=1) + "\n")
        partial.replace(self._path)


def headline(measured: Measurements) -> dict[str, Any]:
    """The keys that checks read; None where nothing was measured.

    The ratios are speeds of ours over the peer's; of i-quants and of prompts it is the worst of those measured.
    """
    start, resident = measured.get("start", {}), measured.get("resident/Q4_K_M", {})
    capped = {
        name.split("/")[1]: {key: record.get(key) for key in CAPPED}
        for name, record in measured.items()
        if name.startswith("capped/")
    }
    return {
        "kernels": dict(measured.get("kernels", {}).get("share", {})),
        "resident_decode_ratio": resident.get("ratio"),
        "iquant_decode_ratio": _worst(measured, "resident/IQ"),
        "prefill_ratio": _worst(measured, "prefill/"),
        "capped": capped,
        "capped_vs_resident": measured.get("capped-vs-resident", {}).get("ratio"),
        "rss_before_weights_bytes": start.get("rss_before_weights_bytes"),
        "import_to_first_token_s": start.get("import_to_first_token_s"),
    }


def _worst(measured: Measurements, prefix: str) -> float | None:
    ratios = [record["ratio"] for name, record in measured.items() if name.startswith(prefix) and "ratio" in record]
    return min(ratios, default=None)
