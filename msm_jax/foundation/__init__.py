"""What every room stands on: settings, durable files, content hashes, and child processes. It imports no other room."""
