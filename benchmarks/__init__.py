"""Benchmarks of speed and memory, compared with torch and others, each in its own environment and process."""
