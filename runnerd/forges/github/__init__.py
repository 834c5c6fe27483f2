"""The client of GitHub: runner scale sets, or REST where there are none."""
