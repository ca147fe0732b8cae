"""FSDP2: two processes hold half of the rows each, and end with the masks and weights of one, bit by bit."""

from pathlib import Path

import pytest

from tests.core import fsdp_checks
from tests.processes import run_two

SCRIPT = f"""
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.core import fsdp_checks
for check in fsdp_checks.CHECKS:
    check(Path(sys.argv[2]).parent)
    print(check.__name__, flush=True)
"""


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """What each process got through; one start for all checks, since starting takes longer than checking."""
    return [output.split() for output in run_two(SCRIPT, tmp_path_factory.mktemp("fsdp"))]


@pytest.mark.parametrize("name", [check.__name__ for check in fsdp_checks.CHECKS])
def test_under_fsdp(passed, name):
    assert all(name in names for names in passed)
