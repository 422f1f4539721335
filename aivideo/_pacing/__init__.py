"""How fast to send: pacing rules learned or stated, and the limiter that waits."""
