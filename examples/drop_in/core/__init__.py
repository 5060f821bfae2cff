"""The bot's state."""
