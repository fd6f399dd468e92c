"""`python -m xent_fast`: what is installed, how fast it is here, whether it computes right.

Knows: the commands' names and options. Must not know: what any of them does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m xent_fast",
        description="Fast and accurate softmax cross-entropy for NumPy: this installation.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|bench|check")
    info = commands.add_parser("info", help="what is installed, and what limits its speed")
    info.add_argument("--json", action="store_true", help="for programs: show_config as JSON")
    bench = commands.add_parser(
        "bench", help="time it beside NumPy and the libraries that are installed, in half a minute"
    )
    bench.add_argument("--plot", type=Path, metavar="FILE", help="save the chart (Matplotlib)")
    commands.add_parser("check", help="whether this machine computes right, in about 15 seconds")
    options = parser.parse_args(arguments)
    if options.command == "info":
        from xent_fast._command.info import show

        return show(as_json=options.json)
    if options.command == "bench":
        from xent_fast._command.bench import run

        return run(options.plot)
    from xent_fast._command.check import check

    return check()


if __name__ == "__main__":
    sys.exit(main())
