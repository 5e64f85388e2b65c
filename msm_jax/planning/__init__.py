"""What a phase takes on accelerators that are not there: its programs compiled ahead of time, their memory and time."""
