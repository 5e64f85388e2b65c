"""Configs for the command line: ConfigDicts, which import only ml_collections and each other."""
