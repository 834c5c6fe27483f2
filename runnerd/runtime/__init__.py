"""State and services that the rooms above share."""
