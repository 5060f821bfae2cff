"""The engine: takes ops from the API and brings them to the backend, now or after an outage."""
