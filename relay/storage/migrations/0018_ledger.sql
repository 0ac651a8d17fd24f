-- The ledger: a project's payments, by page.
CREATE INDEX payments_page ON payments (project_id, id);
