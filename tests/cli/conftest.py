import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A tiny artifact whose texts never end by themselves, with a context of 65 536 tokens. Do not change it."""
    import torch

    from moecompress.testing.native import Bits, build_artifact, tiny_model

    torch.set_num_threads(1)
    model = tiny_model("qwen3_moe", max_position_embeddings=65536)
    return build_artifact(tmp_path_factory.mktemp("endless"), model, Bits(3, 8), ending=False)


@pytest.fixture
def start(tmp_path):
    """Starts `moecompress …` and gives the process, with pipes for all three streams."""
    started = []

    def _start(*arguments):
        command = [sys.executable, "-m", "moecompress.cli.main", *map(str, arguments)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.communicate()


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
