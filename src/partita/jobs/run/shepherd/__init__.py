"""The watcher of one attempt: a tiny process, standard library only, that outlives the daemon.

It starts the job as the one who submitted it, keeps a bounded log, hears out-of-memory in it, stops it when asked,
ends what it leaves behind, and writes how it ended as its last act. Nothing here imports pathlib, dataclasses or
typing: a host runs as many watchers as jobs.
"""
