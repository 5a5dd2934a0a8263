"""What runs when: Prefect flows of thin tasks over models, monitoring and the registry."""
