-- name: insert_audit
-- A verb that begins; or one that is over, with its status.
INSERT INTO audit (id, project_id, at, key_id, key_name, via, address, request_id, verb, target, detail, status, code)
VALUES (:id, :project_id, :at, :key_id, :key_name, :via, :address, :request_id, :verb, :target, :detail, :status, :code);

-- name: end_audit
-- What was answered; a target that the verb has made is known only now.
UPDATE audit SET status = :status, code = :code, target = COALESCE(target, :target) WHERE project_id = :project_id AND id = :id;

-- name: audit_page
-- A project's entries, newest first, within a range of ids; `floor` is the last that is read.
SELECT id, project_id, at, key_id, key_name, via, address, request_id, verb, target, detail, status, code FROM audit
WHERE project_id = :project_id
  AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id >= COALESCE(CAST(:floor AS TEXT), '')
  AND id >= CAST(:first AS TEXT) AND id < CAST(:last AS TEXT)
  AND (CAST(:key_id AS TEXT) IS NULL OR key_id = :key_id)
  AND (CAST(:verb AS TEXT) IS NULL OR verb = :verb)
  AND (CAST(:target AS TEXT) IS NULL OR target = :target)
  AND (CAST(:via AS TEXT) IS NULL OR via = :via)
ORDER BY id DESC LIMIT :limit;

-- name: audit_floor
-- The last entry that a filtered page reads.
SELECT id FROM audit
WHERE project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z') AND id < CAST(:last AS TEXT)
ORDER BY id DESC LIMIT 1 OFFSET :window;

-- name: forget_audit
-- Entries past their retention, a batch of the oldest.
DELETE FROM audit WHERE (project_id, id) IN (SELECT project_id, id FROM audit WHERE at < :before ORDER BY at LIMIT :limit);

-- name: delete_audit
-- One of too many refusals.
DELETE FROM audit WHERE project_id = :project_id AND id = :id;
