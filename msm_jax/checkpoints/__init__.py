"""Orbax behind one module, and the manifest that records where a run came from."""
