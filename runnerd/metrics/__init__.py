"""The metrics for Prometheus: every one with its help, its unit and a closed set of labels.

No label ever names a job, an instance or a repository: those are unbounded, and the audit trail has them.
"""
