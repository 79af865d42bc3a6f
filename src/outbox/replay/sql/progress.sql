-- Notes a portion. $1 uuid: the replay. $2 bigint: the last id that is done with. $3 bigint: copies that were made. $4
-- boolean: nothing is left. Runs in the transaction that made the copies and holds the row.
update outbox_replays set last_id = $2, copied = copied + $3, finished_at = case when $4::boolean then now() end where id = $1
