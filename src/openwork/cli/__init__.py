"""Make any PyTorch model sparse, and measure honestly what that costs.

Exit codes: 0 done; 1 it failed; 2 what was given cannot be used, said in one sentence on standard error; 3 a run
diverged; 4 done, but for what cannot be read or translated; 130 stopped by Ctrl-C; 143 by SIGTERM; 141 where
nobody reads what it prints.

OPENWORK_TRACEBACK=1 shows where an error came from. openwork --install-completion lets your shell complete commands,
options, experiments and runs.
"""

import os
import sys
from collections.abc import Callable, Sequence
from inspect import cleandoc
from itertools import pairwise
from typing import Annotated

from openwork import __version__

try:
    import typer
    from rich.markup import escape

    # None of them imports torch, or what does, before a command runs: --help would take seconds.
    from openwork.cli import (
        bench,
        checkpoints,
        doctor,
        export,
        import_tf,
        listing,
        prune,
        published,
        recipe,
        report,
        sweep,
        training,
        translation,
        watch,
    )
    from openwork.cli.characters import print_what_can_be_printed
    from openwork.cli.common import error_console, json_alone
    from openwork.cli.errors import TRACEBACK, exit_code, sentence
    from openwork.cli.examples import with_examples
    from openwork.cli.pipes import NOBODY_READS, broken_pipe, nobody_reads
except ImportError as error:
    raise SystemExit(f'the command line needs {error.name}: pip install "openwork[study]"') from error

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Train and compare": {
        "quickstart": training.quickstart,
        "run": training.run,
        "sweep": sweep.sweep,
        "list": listing.list_runs,
        "show": listing.show,
        "results": report.results,
        "report": report.report,
        "pictures": report.pictures,
        "watch": watch.watch,
    },
    "Models and files": {
        "eval": checkpoints.evaluate,
        "inspect": checkpoints.inspect,
        "prune": prune.prune,
        "export": export.export,
        "bench": bench.bench,
        "recipe": recipe.recipe,
    },
    "The paper, text and this machine": {
        "published": published.published,
        "import-tf": import_tf.import_tf,
        "translate": translation.translate,
        "bleu": translation.bleu,
        "doctor": doctor.doctor,
    },
}
for _panel, _commands in PANELS.items():
    for _name, _command in _commands.items():
        app.command(
            _name,
            help=escape(with_examples(_name, cleandoc(_command.__doc__ or ""))),  # "[wandb]" would be a style
            cls=sweep.SweepCommand if _name == "sweep" else None,
            rich_help_panel=_panel,
        )(json_alone(_command))


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
    """Runs the command line; whatever is expected to go wrong becomes one sentence, and exit code 1 or 2."""
    print_what_can_be_printed()
    sys.path.insert(0, os.getcwd())  # the user's own experiments
    try:
        code = _run()
        sys.stdout.flush()  # here, where it can be handled that nobody reads
    except (BrokenPipeError, SystemExit) as stopped:
        if (broken := broken_pipe(stopped)) is None:
            raise
        if nobody_reads(stopped):
            raise SystemExit(NOBODY_READS) from None
        code = _say(broken)
    raise SystemExit(code)


def _run() -> int:
    """The exit code of the command, after saying what went wrong."""
    try:
        _refuse_empty(sys.argv)
        return app(standalone_mode=False) or 0
    except BrokenPipeError:
        raise
    except Exception as error:
        return _say_mistyped(error) if isinstance(error, _MISTYPED) else _say(error)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuses arguments without a character: an empty path would be the folder that one is in.

    Raises:
        ValueError: If there is one; says where.
    """
    options = True
    for before, argument in pairwise(arguments):
        if before == "--":
            options = False
        # What ends in "=" is an empty option only where this is the first "=".
        if not argument or (options and argument.startswith("--") and argument.find("=") == len(argument) - 1):
            where = argument or f"the argument after {before if before.startswith('-') else repr(before)}"
            raise ValueError(f"{where} is empty; give a value, or set the variable of your shell that stands there")


def _say(error: Exception) -> int:
    """The exit code, after saying what is expected to go wrong; a bug is raised again."""
    text = sentence(error)
    if text is None or os.environ.get(TRACEBACK):
        raise error
    _say_error(text)
    return exit_code(error)


_MISTYPED = typer.BadParameter.__mro__[1]
"""What the parser raises: click's UsageError, of typer's own copy or not."""


def _say_mistyped(error: Exception) -> int:
    """The exit code, after saying what cannot be parsed, or printing the help where nothing was given."""
    context, message = error.ctx, " ".join(error.format_message().split())  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
    else:
        command = context.command_path if context else "openwork"
        message = message.replace("Value error, ", "").rstrip(".")
        _say_error(f"{message[:1].lower()}{message[1:]} ({command} --help says what there is)")
    return 2


def _say_error(text: str) -> None:
    error_console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
