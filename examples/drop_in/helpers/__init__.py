"""What the bot's commands share."""
