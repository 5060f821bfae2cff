"""How a store is doing, seen from outside: what the commands show, and what they set right."""
