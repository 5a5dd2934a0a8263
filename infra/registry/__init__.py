"""The registry of releases: MLflow."""
