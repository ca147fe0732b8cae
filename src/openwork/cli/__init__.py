"""The command line: quickstart, run, sweep, results, eval, inspect, report, pictures, published, translate, bleu.

Exit codes: 0 done; 1 an error, said in one sentence on standard error; 2 wrong usage; 3 a run diverged; 130 stopped.
Set OPENWORK_TRACEBACK=1 to see where an error came from.
"""

import os
import sys

try:
    import typer

    from openwork.cli import checkpoints, published, report, sweep, training, translation
    from openwork.cli.common import error_console
except ImportError as error:
    raise SystemExit(f'the command line needs {error.name}: pip install "openwork[study]"') from error

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(training.quickstart)
app.command()(training.run)
app.command()(sweep.sweep)
app.command()(report.results)
app.command("eval")(checkpoints.evaluate)
app.command()(checkpoints.inspect)
app.command()(report.report)
app.command()(report.pictures)
app.command()(published.published)
app.command()(translation.translate)
app.command()(translation.bleu)


def main() -> None:
    """Runs the command line; every expected error becomes one sentence and exit code 1."""
    sys.path.insert(0, os.getcwd())  # the user's own experiments
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("OPENWORK_TRACEBACK"):
            raise
        error_console.print(f"error: {_sentence(error)}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {error.filename}: {error.strerror.lower()}; make it usable or give another"
    return str(error) or type(error).__name__
