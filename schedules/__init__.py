"""Scheduled work around the engine: cron, sweeps, reconciliation; imports worker, never back."""
