"""`dlmbench load`: servers under load, one or two of them in turn."""
