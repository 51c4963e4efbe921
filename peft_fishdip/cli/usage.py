"""What is wrong with the arguments of the command line, in one line."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from .messages import note

UsageError: Any = typer.BadParameter.__base__
"""Of an argument that is missing, unknown or no number."""


class OneLineUsage(TyperGroup):
    """The verbs of a command, which says in one line how it was called wrongly, and exits with 2."""

    def main(self, args: Any = None, prog_name: Any = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command and exit; if not `standalone_mode`, return or raise."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except UsageError as error:
            if message := error.format_message().strip():  # without arguments, rich has shown the help
                command = error.ctx.command_path if error.ctx is not None else self.name
                note("error", f"{message.rstrip('.')}; `{command} --help` lists what there is")
            sys.exit(error.exit_code)
        except typer.Abort:
            note("error", "interrupted")
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)
