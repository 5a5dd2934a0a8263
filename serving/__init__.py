"""What answers requests. Starts without torch, transformers, scikit-learn, Prefect or Evidently."""
