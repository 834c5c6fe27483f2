"""Facts about jobs: updates, jobs that are stuck, re-runs."""
