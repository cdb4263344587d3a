"""The `katachi` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command: 0 if all went well, 2 with one line on stderr for what was asked wrongly, 1 with one line for
    what no argument can mend, 130 after Ctrl-C."""
    import typer

    from katachi.cli.app import app

    try:
        code = app(standalone_mode=False, prog_name="katachi")
    except (KeyboardInterrupt, typer.Abort):
        print("katachi: interrupted", file=sys.stderr)
        code = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # how typer's errors tell what was wrong with the arguments
            raise
        message = " ".join(error.format_message().split())
        print(f"katachi: {message or 'what to do? See katachi --help'}", file=sys.stderr)
        code = getattr(error, "exit_code", 2)
    sys.exit(code or 0)
