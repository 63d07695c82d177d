"""A conversation -> the chat tab, from what is kept to what is shown."""
