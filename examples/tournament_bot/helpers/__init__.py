"""What the bot's commands and buttons share."""
