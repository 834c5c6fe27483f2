"""GitHub by its REST API, where there are no scale sets."""
