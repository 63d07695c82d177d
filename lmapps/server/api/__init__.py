"""HTTP requests -> the engine -> JSON and server-sent events."""
