"""How a remedy is written: it ends with the command that helps, after a colon, or says that no command does.

    let it cool; to watch it: nvidia-smi -i 0 -q -d TEMPERATURE
    plug the machine in (no command can)

Commands are text for a person to read, judge and run: nothing here runs one. `sudo` marks those that change the
machine for everybody; in a container they are for its host.
"""

from __future__ import annotations

from .finding import Document, look


def in_container(environment: Document) -> bool:
    """Whether settings of the machine are out of reach from here."""
    return look(environment, "limits.container") is True


def on_host(environment: Document, command: str) -> str:
    """A command that changes the machine, marked for the host where this is a container."""
    return f"on the container's host: {command}" if in_container(environment) else command


def run_with(threads: int) -> str:
    """The command that measures with that many threads, at least one."""
    return f"dlmbench run --threads {max(1, threads)}"


def busiest() -> str:
    """The command that names the processes that use the processors most."""
    return "ps -eo pcpu,pid,comm --sort=-pcpu"
