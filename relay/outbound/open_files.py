"""How many files and connections this process may open, however low the limit is that it was started with."""

import resource


def open_files_max() -> int:
    """Return the limit, RLIM_INFINITY without one: raised to the hard one first, which needs no privilege.

    Many systems start a process with a soft limit of 1024, which a program has to raise that opens more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a limit of its own behind an endless hard one
        return soft
    return hard
