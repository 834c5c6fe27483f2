"""Support for provisioners: durations and sizes, rate limits, files of JSON."""
