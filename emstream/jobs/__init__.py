"""Offline work on dask: archives reprocessed, models trained. Never on the live daemon's workers."""
