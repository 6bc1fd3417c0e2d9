"""When a process rests, seen from outside through /proc (Linux): none of its threads has run since the look before, and each
sleeps. One that waits for its turn on the processor or for the disk, or that somebody has stopped, does not rest."""

import pathlib
import time

# Between two looks. Longer than any of the server's threads sleeps while it works on an order.
PAUSE_SECONDS = 0.01
# What passes between two looks counts as no longer than this: more is a machine that stood still, and the process with it.
GAP_SECONDS_MAX = 0.5


class Watched:
    """A process that is looked at again and again."""

    def __init__(self, pid: int) -> None:
        self.tasks = pathlib.Path(f"/proc/{pid}/task")
        # How long it could have run up to the latest look, whether or not it had anything to do.
        self.awake_seconds = 0.0
        self.looked_at = time.monotonic()

    def threads(self) -> dict[str, tuple[str, str]]:
        """Of each thread, its state and the nanoseconds that it has run."""
        threads = {}
        for task in self.tasks.iterdir():
            try:
                # The name before the state stands in brackets and may hold anything.
                state = (task / "stat").read_text().rpartition(")")[2].split()[0]
                threads[task.name] = (state, (task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                # It has ended since it was listed; the next look does not list it.
                threads[task.name] = ("ended", "")
        return threads

    def look(self) -> dict[str, tuple[str, str]]:
        """Its threads after a pause."""
        time.sleep(PAUSE_SECONDS)
        threads = self.threads()
        now = time.monotonic()
        stopped = any(state == "T" for state, _ in threads.values())
        self.awake_seconds += 0 if stopped else min(now - self.looked_at, GAP_SECONDS_MAX)
        self.looked_at = now
        return threads

    def until_rest(self) -> None:
        before = self.look()
        while True:
            now = self.look()
            if now == before and all(state == "S" for state, _ in now.values()):
                return
            before = now

    def pass_by(self, seconds: float) -> None:
        """Lets it alone for so long."""
        end = self.awake_seconds + seconds
        while self.awake_seconds < end:
            self.look()
