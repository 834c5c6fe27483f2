"""The commands of operators, as the socket hands them over."""
