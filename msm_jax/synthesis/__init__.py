"""From a Model Spec to training data: documents and demonstrations that say where they came from."""
