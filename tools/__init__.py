"""Scripts that fetch, sweep and set up."""
