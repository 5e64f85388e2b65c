"""Model Specs in prose: sections, sentences and listed principles."""
