"""Tools without a word of the domain: clock, HTTP, YAML, tasks, secrets, systemd."""
