"""Runner scale sets: the message session and what it reports."""
