-- Replays: one by its id, or with null every one that is not finished, the newest first. $1 uuid: the id, or null.
-- Changes nothing.
select id, filter, to_topic, new_ids, rate, upto_id, last_id, matched, copied, created_at, finished_at
from outbox_replays
where case when $1::uuid is null then finished_at is null else id = $1 end
order by created_at desc
