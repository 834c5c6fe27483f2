"""A GitHub and a GitLab that fit in one process, for the demo, the tests and the benchmark.

The simulator speaks the public protocols of both forges, faithful above all in what it refuses, and shares no code
with the clients that it serves: nothing here imports the rest of runnerd, and nothing of the daemon may import this.
It is not a forge: it keeps everything in memory and runs any script that a job was given.
"""
