"""The service itself: bytes to values and back, verdicts, the HTTP client, callback tokens."""
