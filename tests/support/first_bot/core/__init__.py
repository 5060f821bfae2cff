"""The state of the first bot, as it was before standfast."""
