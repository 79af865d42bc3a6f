-- Locks a replay for one portion, if it is still ours. $1 uuid: the replay. $2 uuid: the process. Returns how far it
-- is: further than the process knows when the answer to its last commit was lost. No row when another process has taken
-- it. Changes nothing by itself.
select last_id, copied, finished_at is not null as finished from outbox_replays where id = $1 and runner = $2 for no key update
