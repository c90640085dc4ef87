import os
import pathlib
import signal
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "conformance"))

from cluster import Cluster

# Who runs tests in the background of a script ignores Ctrl-C, and so would everything that is started here. What is caught is not handed down.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What the person who runs the tests has set is not what is tested.
for name in [name for name in os.environ if name.startswith("DDBCTL_")]:
    del os.environ[name]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running
