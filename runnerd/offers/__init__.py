"""Where to buy, and whether: ranking, blocklist, admission, quotas."""
