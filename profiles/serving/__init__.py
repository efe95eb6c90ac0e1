"""What a server delivered to its clients: definitions that hold for tokens one by one and for whole blocks alike."""
