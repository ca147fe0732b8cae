"""Prints the name of each check of several processes that this one got through; with "compiled", of the slow ones."""

import sys

from tests.core import random_fsdp_checks
from tests.programs.group import group

if __name__ == "__main__":
    with group() as (_, folder):
        if sys.argv[3:] == ["compiled"]:
            random_fsdp_checks.compiled_steps_under_fsdp_are_those_of_one_process()
            print("compiled", flush=True)
        else:
            for check in random_fsdp_checks.CHECKS:
                check(folder)
                print(check.__name__, flush=True)
