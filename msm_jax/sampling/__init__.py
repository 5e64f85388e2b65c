"""Text from a checkpoint: cached decoding, batches of requests, log-probabilities of given continuations."""
