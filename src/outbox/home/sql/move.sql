-- Notes that the outbox is somewhere else now. $1 text: the server, or null. $2 bigint: the database. $3 uuid: its new
-- name in markers; null: the one that it has. Returns the name.
update outbox_installation set home_system = $1, home_database = $2, id = coalesce($3, id) returning id
