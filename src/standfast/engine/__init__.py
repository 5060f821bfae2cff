"""The engine: takes ops from the faces and brings them to the backend."""
