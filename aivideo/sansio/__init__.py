"""What decides: no waiting, no clock, no draw, no file, no socket, no log."""
