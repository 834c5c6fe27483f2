"""`runnerd demo`: a demonstration in about a minute, on this machine alone.

The daemon, its agents, the jobs and their reports are real; forges, clouds, GPUs and dollars are simulated, and every
line that the demo prints says which is which.
"""
