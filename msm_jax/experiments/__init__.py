"""The phase graph of a controlled experiment: arms, seeds, addressing by hash, scheduling, gathering results."""
