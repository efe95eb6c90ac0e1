"""How many sockets a process may open."""

from __future__ import annotations

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from ... import InputError

# What a process opens besides sockets.
_OTHERS = 64


def raise_file_limit(wanted: int = 0) -> int:
    """Let this process open as many sockets as the system allows: the usual 1024 is fewer than a load's streams.

    Returns how many that are. Raises InputError where `wanted` are more.
    """
    if resource is None:
        return 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        most = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and wanted + _OTHERS > soft:
        raise InputError(
            f"{wanted:,} open requests: this process may open {soft:,} files (ulimit -Hn); raise that limit or ask for "
            "fewer"
        )
    return soft - _OTHERS if soft != resource.RLIM_INFINITY else 1 << 20
