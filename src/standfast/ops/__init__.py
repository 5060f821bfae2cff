"""What a write means: ops, outcomes, batches, reconciliation on replay; pure."""
