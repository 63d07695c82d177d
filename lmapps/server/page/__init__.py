"""Plugins and an engine -> the page in the browser."""
