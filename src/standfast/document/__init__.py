"""What JSON is: exact text, values, patches, merges, types; pure."""
