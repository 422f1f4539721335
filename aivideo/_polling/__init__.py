"""When to poll a task: schedule, learned durations, task states, and the loop that polls."""
