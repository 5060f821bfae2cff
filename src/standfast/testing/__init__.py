"""For tests: what code that uses a store, and what a backend of one's own, can be tested with.

`standfast.backends.memory.MemoryBackend` is the whole contract without a database;
`contract.suite.backend` (which needs pytest) is the contract as a test-suite.
"""
