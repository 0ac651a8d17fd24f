"""The archive: copies of results in the operator's own bucket, made before the results expire."""
