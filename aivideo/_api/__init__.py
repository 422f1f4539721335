"""The service: requests and answers, verdicts on creates, the HTTP client, callback tokens."""
