"""The names of what is in an attempt's folder, and how long its log's parts are."""

LAUNCH = "launch.json"
"""What is to be run, written by the runner before anything starts."""

LOCK = "lock"
"""Locked (flock) from before the watcher starts until it ends: who can lock it knows that nobody watches."""

WATCH = "watch.json"
"""Which processes there are, written by the watcher."""

EXIT = "exit.json"
"""How the attempt ended, written last."""

LOG = "log"
"""The head of the output; all that is kept of it once the attempt has ended."""

PART = "log."
"""Parts of the output after the head, each named by the number of bytes before it."""

PROGRESS = "progress.jsonl"
"""What the job reports of itself."""

CHECKPOINT = "checkpoint"
"""There once the job is to end; holds the seconds it has."""

WISH = "wish"
"""What the queue wanted of the job when it had it end, or after that; for the one who finds it without the queue."""

ERRORS = "watcher.log"
"""What went wrong in the watcher itself."""

LOCK_FD = 3
"""Where the watcher inherits the locked file."""
