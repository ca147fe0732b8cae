"""Prints the name of each check of FSDP2 that this process got through."""

from tests.core import fsdp_checks
from tests.programs.group import group

if __name__ == "__main__":
    with group() as (_, folder):
        for check in fsdp_checks.CHECKS:
            check(folder)
            print(check.__name__, flush=True)
