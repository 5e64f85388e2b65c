"""What a phase takes on accelerators that are not there: programs compiled ahead of time, their memory and their time."""
