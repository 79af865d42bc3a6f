-- Locks a replay for one portion, if it is still ours. $1 uuid: the replay. $2 uuid: the process.
-- Returns no row when another process has taken it, or it is finished. Changes nothing by itself.
select last_id from outbox_replays where id = $1 and runner = $2 and finished_at is null for no key update
