"""The public classes: stores, collections and batches, synchronous and asynchronous."""
