"""The room below all others: settings, durable files, content hashes and child processes. It imports no other room."""
