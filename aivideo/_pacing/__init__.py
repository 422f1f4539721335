"""How fast to send: a learned or a stated pace, and the limiter that makes requests wait for it."""
