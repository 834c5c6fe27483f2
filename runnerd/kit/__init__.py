"""Tools without a word of the domain: clock, HTTP, tasks, secrets, systemd."""
