"""The move of JSON files into a database: scan, plan, backup, load, verify, clean up, roll back."""
