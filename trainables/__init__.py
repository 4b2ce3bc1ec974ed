"""One trial: its data, its models, how it learns and how it is scored."""
