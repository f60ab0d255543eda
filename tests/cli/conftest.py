import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def command(tmp_path):
    """Runs `moecompress …` in a process of its own; gives exit code, stdout and stderr."""

    def _command(*arguments, code=0, as_json=False, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "moecompress.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path), **environment},
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if as_json else done

    return _command
