"""From a Model Spec to training data: documents, demonstrations and preference pairs that say where they came from."""
