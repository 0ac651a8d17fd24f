-- A start remembers the API keys that were used last, however many there are.
CREATE INDEX api_keys_in_use ON api_keys (last_used_at) WHERE revoked_at IS NULL AND last_used_at IS NOT NULL;
