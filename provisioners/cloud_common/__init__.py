"""The frame that AWS, Google Cloud and Azure share: offers, errors, calls, cached answers, checks.

What a cloud says stays in its own folder: its listings, requests, error codes, prices and end reasons.
"""
