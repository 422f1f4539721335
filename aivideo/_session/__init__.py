"""Session and Job, and everything a session runs: submits, polls, downloads, callbacks."""
