"""An instance from its request until it is gone."""
