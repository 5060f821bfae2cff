"""The bot's state: storage, persistence, registrations."""
