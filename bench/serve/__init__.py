"""`dlmbench serve`: any local generator, or a schedule known beforehand, behind the OpenAI-compatible protocol."""
