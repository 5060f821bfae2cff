"""Where ops are applied: PostgreSQL, SQLite or memory, by the contract in `base`."""
