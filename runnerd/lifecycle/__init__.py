"""The life of an instance, from its create request until it is gone."""
