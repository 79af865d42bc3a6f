-- The next row of a replay. $1 bigint: the last id that was looked at. $2 bigint: the highest id of the replay. $3
-- bigint[]: ids, or null for any. Returns its id, null if there is none. Changes nothing.
select min(id) as next_id from outbox_events where id > $1 and id <= $2 and ($3::bigint[] is null or id = any($3))
