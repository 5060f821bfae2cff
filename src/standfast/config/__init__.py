"""Where settings come from, and how a database URL is read."""
