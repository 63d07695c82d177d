"""Plugins and an engine in, a page and HTTP endpoints out."""
