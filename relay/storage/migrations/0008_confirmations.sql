-- What waits to be confirmed is claimed project by project, so that one project cannot use up the status checks of another.

DROP INDEX jobs_to_check;
CREATE INDEX jobs_to_check ON jobs (provider, next_check_at) WHERE confirm_by IS NULL AND next_check_at IS NOT NULL;
CREATE INDEX jobs_to_confirm ON jobs (provider, project_id, next_check_at) WHERE confirm_by IS NOT NULL AND next_check_at IS NOT NULL;
