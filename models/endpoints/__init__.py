"""Generators behind HTTP: any server that speaks the OpenAI-compatible protocol, asked, read and timed.

Nothing here imports torch: what is measured is on the other side of a socket.
"""
