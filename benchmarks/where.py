"""A line that says where something was measured, for below its table.

Knows: how to ask the package, the system and other packages. Must not know: what is measured.
"""

from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from xent_fast import show_config
from xent_fast._command.info import processor_name


def where(*libraries: str) -> str:
    """With the versions of those libraries that are installed."""
    config = show_config("dicts")
    threads, versions = config["threads"], [f"Python {config['python']}, NumPy {config['numpy']}"]
    for name in libraries:
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return (
        f"*{processor_name()} ({config['isa']['active']}), {threads['processors']} processors, "
        f"{threads['default']} threads by default, {config['compiler']}; {', '.join(versions)}; "
        f"{datetime.now(UTC).date().isoformat()}.*"
    )
