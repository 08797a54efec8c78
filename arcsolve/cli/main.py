"""The entry point: finds the command, and turns what goes wrong into one line and an exit status.

Nothing heavy is imported here, for ``arcsolve --help`` to answer at once: a command's module is imported when it runs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from arcsolve import __version__
from arcsolve.errors import ArcsolveError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "solve": ("arcsolve.cli.solve:solve", "Solve a task and draw the answers."),
    "show": ("arcsolve.cli.show:show", "Draw tasks."),
    "batch": ("arcsolve.cli.batch:batch", "Solve a set of tasks, with a submission at hand at any time."),
    "submit": ("arcsolve.cli.submit:submit", "Write the answers of a batch run as a submission."),
    "eval": ("arcsolve.cli.evaluate:evaluate", "Solve a set of tasks and score the answers."),
    "score": ("arcsolve.cli.score:score_command", "Score a submission."),
    "doctor": ("arcsolve.cli.doctor:doctor", "Check this machine: versions, devices, weights, inference."),
    "data": ("arcsolve.cli.data:data", "Prepare training data."),
    "train": ("arcsolve.cli.train:train", "Train the network."),
    "bench": ("arcsolve.cli.bench:bench", "Measure this machine."),
    "lab": ("arcsolve.cli.lab:lab", "Rerun the experiments behind the recipe."),
    "export": ("arcsolve.cli.export:export", "Write trained weights for ONNX Runtime."),
}

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


class LazyGroup(click.Group):
    """A group that knows its commands as ``name: (module:attribute, help line)`` and imports one when it is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=line) for name, (_, line) in self.lazy.items()]
        # Past Group, whose version imports every command for its help line.
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [item for item in names if item.value.startswith(incomplete)] + options

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            ctx.exit(BROKEN_PIPE)  # here, since click itself would exit with status 1


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="arcsolve")
def arcsolve() -> None:
    """Solve ARC-AGI tasks with a small network that re-runs itself on its own latent state."""


def main() -> NoReturn:
    """Run the command line and exit.

    Exit status: 0; what a command chose; 1 after an ``ArcsolveError`` or an unusable file; 2 for wrong usage; 130 when
    interrupted; 141 when the reader of a pipe has gone. Any other exception is a defect and shows its traceback.
    """
    sys.exit(_run())


def _run() -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an id may hold what the locale's encoding does not
    try:
        result = arcsolve.main(prog_name="arcsolve", standalone_mode=False)
        sys.stdout.flush()
    except ArcsolveError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # click's form of KeyboardInterrupt
        return _fail("interrupted", INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "arcsolve":
            raise
        return _fail(f"this command needs the package {error.name}, which is not installed", 1)
    except OSError as error:
        # What standard output still buffers may fail again at exit, and Python would say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        place = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{place}{error.strerror or error}", 1)
    # click hands back the status given to ``ctx.exit``; commands return nothing else.
    return result if isinstance(result, int) else 0


def _fail(message: str, status: int) -> int:
    click.echo(f"arcsolve: {message}", err=True)
    return status
