"""The gateway over HTTP/1.1: a bare ASGI application, and what guards the connections under it."""
