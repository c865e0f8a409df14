"""What the kernel says about processes; nothing here asks the programs under test."""

import os
import pathlib

RUNTIME_NAME = "emulsion-runtime"
# The kernel keeps 15 characters of a program's name.
RUNTIME_COMM = RUNTIME_NAME[:15]


def stat(pid):
    """(name, parent, CPU seconds) of a process that runs; None for one that is gone or only waits to be reaped."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    ticks = int(fields[11]) + int(fields[12])
    return name, int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")


def runtimes_below(parent):
    """Ids of the replicas that `parent` started itself."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (process := stat(int(entry.name))):
            name, its_parent, _ = process
            if its_parent == parent and name == RUNTIME_COMM:
                found.append(int(entry.name))
    return found


def is_running(pid):
    return stat(pid) is not None


def cpu_seconds(pid):
    """CPU time a process has used; infinitely much for one that is gone."""
    process = stat(pid)
    return process[2] if process else float("inf")
