"""Sampling from models: cached decoding, batches of requests, log-probabilities of given texts, the model protocol."""
