"""What MixLLM stands on: settings, database, registry, local stack."""
