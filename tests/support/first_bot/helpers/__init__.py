"""What the first bot's commands share."""
