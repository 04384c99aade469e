"""The transport, at the level of its parts: real sockets, an engine that answers when the test says so."""
