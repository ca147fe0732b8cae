"""Prints the name of each check of several processes that this one got through."""

from tests.core import evidence_checks
from tests.programs.group import group

if __name__ == "__main__":
    with group() as (_, folder):
        for check in evidence_checks.CHECKS:
            check(folder)
            print(check.__name__, flush=True)
