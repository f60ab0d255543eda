import os

import pytest

from moecompress.core.apart import apart
from moecompress.core.errors import MoecompressError


def test_a_value_comes_back_from_another_process():
    process, given = apart("import os; print(json.dumps([os.getpid(), given]))", 3, "a'b", None)
    assert process != os.getpid() and given == [3, "a'b", None]


def test_a_failure_is_told():
    with pytest.raises(MoecompressError, match="ZeroDivisionError"):
        apart("1 / 0")
