"""Configs for the command line: ConfigDicts, importing nothing but ml_collections and each other."""
