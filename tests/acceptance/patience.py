"""Waiting for conditions, never for time."""

import time

POLL_SECONDS = 0.05


def eventually(what, condition, seconds):
    """Polls `condition` until it gives something true, and returns that; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(POLL_SECONDS)
