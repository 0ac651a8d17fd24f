-- What a job may cost at most, in millionths of a USD: it bounds every quote and every authorization that is made for the job.

ALTER TABLE jobs ADD COLUMN max_cost BIGINT;
