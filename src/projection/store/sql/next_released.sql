-- The first parked event of a partition that is to be folded again. $1 text: group. $2 text: topic. $3 int: partition.
-- $4 text: projection; null: all. Returns the record, or no row. Locked, so that it cannot be given up meanwhile.
select "offset", key, value, headers::text, recorded_at, event_id
from consumer_parked
where consumer_group = $1 and topic = $2 and partition = $3 and projection is not distinct from $4 and release_asked_at is not null
order by "offset", event_id
limit 1
for update
