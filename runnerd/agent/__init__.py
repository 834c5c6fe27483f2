"""The agent that runs on an instance: standard library only, imports nothing else of runnerd."""
