-- Jobs are found by the id that their provider gave them. Two of its jobs may have one id, at two providers or two projects.
CREATE INDEX jobs_of_provider_id ON jobs (provider_job_id) WHERE provider_job_id IS NOT NULL;
