"""Offers: which to buy next, and the limits, quotas and failures that rule some out."""
