-- name: insert_endpoint_note
-- Something that happened to an endpoint.
INSERT INTO endpoint_history (id, project_id, endpoint_id, at, kind, reason, until, key_id)
VALUES (:id, :project_id, :endpoint_id, :at, :kind, :reason, :until, :key_id);

-- name: trim_endpoint_history
-- All but the newest of what happened to an endpoint.
DELETE FROM endpoint_history WHERE endpoint_id = :endpoint_id AND id <= (
    SELECT id FROM endpoint_history WHERE endpoint_id = :endpoint_id ORDER BY id DESC LIMIT 1 OFFSET :kept
);

-- name: endpoint_history_page
-- What happened to an endpoint, newest first.
SELECT id, project_id, endpoint_id, at, kind, reason, until, key_id FROM endpoint_history
WHERE endpoint_id = :endpoint_id AND project_id = :project_id AND id < COALESCE(CAST(:before AS TEXT), 'z')
ORDER BY id DESC LIMIT :limit;
