"""The command line: quickstart, run, sweep, results, eval, inspect, export, bench, doctor, report and others.

Exit codes: 0 done; 1 an error, said in one sentence on standard error; 2 wrong usage; 3 a run diverged; 4 done, but for
runs that cannot be read; 130 stopped by Ctrl-C; 143 by SIGTERM.
Set OPENWORK_TRACEBACK=1 to see where an error came from.
"""

import os
import sys
from typing import Annotated

from openwork import __version__

try:
    import typer

    # None of them imports torch, or what does, before a command runs: --help would take seconds.
    from openwork.cli import (
        bench,
        checkpoints,
        doctor,
        export,
        import_tf,
        prune,
        published,
        recipe,
        report,
        sweep,
        training,
        translation,
    )
    from openwork.cli.common import error_console
    from openwork.cli.errors import TRACEBACK, UsageError, sentence
except ImportError as error:
    raise SystemExit(f'the command line needs {error.name}: pip install "openwork[study]"') from error

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(training.quickstart)
app.command()(training.run)
app.command(cls=sweep.SweepCommand)(sweep.sweep)
app.command()(report.results)
app.command("eval")(checkpoints.evaluate)
app.command()(checkpoints.inspect)
app.command()(export.export)
app.command()(prune.prune)
app.command()(recipe.recipe)
app.command()(bench.bench)
app.command()(doctor.doctor)
app.command()(report.report)
app.command()(report.pictures)
app.command()(published.published)
app.command()(translation.translate)
app.command()(translation.bleu)
app.command()(import_tf.import_tf)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"openwork {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of no command."""


def main() -> None:
    """Runs the command line; every expected error becomes one sentence and exit code 1, or 2 for wrong usage."""
    sys.path.insert(0, os.getcwd())  # the user's own experiments
    try:
        app()
    except Exception as error:
        text = sentence(error)
        if text is None or os.environ.get(TRACEBACK):
            raise
        error_console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None
