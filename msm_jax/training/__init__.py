"""One train loop for every phase: state, optimizer, loss, step, loop, metrics."""
