-- Takes an unfinished replay over: its former process changes nothing more. $1 uuid: the replay. $2 uuid: the process.
-- $3 int: another rate, or null to keep it. Waits for a portion that is being copied. Running it twice changes nothing.
update outbox_replays set runner = $2, rate = coalesce($3, rate)
where id = $1 and finished_at is null
returning id, filter, to_topic, new_ids, rate, upto_id, last_id, matched, copied, created_at, finished_at
