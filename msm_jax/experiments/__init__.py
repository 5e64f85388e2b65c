"""The phase graph of a controlled experiment: arms, seeds, addresses by hash, scheduling, gathering."""
