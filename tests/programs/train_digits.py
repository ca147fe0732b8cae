"""Trains one run into a folder and prints what it measured at the end."""

import sys
from pathlib import Path

import openwork as ow
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

if __name__ == "__main__":
    run = Run(DigitsLeNet300100(), ow.VariationalDropout(ow.Constant(1e-4)), steps=400)
    print(execute(run, Path(sys.argv[1]), evaluations=100).after)
