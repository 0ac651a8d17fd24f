-- Held endpoints are counted for /metrics by an index of them alone.

CREATE INDEX endpoints_held ON endpoints (held_until) WHERE held_until IS NOT NULL;
