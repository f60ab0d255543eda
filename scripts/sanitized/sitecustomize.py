"""Python's start under `scripts/sanitize`: the core is the sanitized build, whatever is installed."""

import importlib.util
import os
import sys

NAME = "moecompress.runtime._native"


class SanitizedCore:
    """Finds the core where the environment says, before any other finder is asked."""

    def find_spec(self, name, path=None, target=None):
        """The sanitized core's place, for its name alone."""
        return (
            importlib.util.spec_from_file_location(name, os.environ["MOECOMPRESS_SANITIZED"]) if name == NAME else None
        )


sys.meta_path.insert(0, SanitizedCore())
