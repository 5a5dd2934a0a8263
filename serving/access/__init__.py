"""Who may ask: API keys, their rates and budgets."""
