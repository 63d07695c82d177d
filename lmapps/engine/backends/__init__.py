"""What serves one model, whatever it runs on: our engine, transformers, another server."""
