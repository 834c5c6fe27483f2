"""The GitHub half of the simulator."""
