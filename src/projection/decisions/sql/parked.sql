-- Parked events that match, those that were parked last first. $1 text: group; null: all. $2 uuid[]: event ids; null:
-- any. $3 text: projection; an event of all projections is of each. $4 text: event type. $5 text: topic. $6 bytea: key.
-- $7 text: part of the reason. Null is any. $8 boolean: also those that were given up. $9 bigint: most rows; null: no
-- limit. $10 boolean: with what is in them; otherwise key, value, headers and time of the record are null. Reads only.
select consumer_group, event_id, event_type, topic, partition, "offset", projection, error, attempts, parked_at,
  release_asked_at is not null as releasing, discarded_at is not null as discarded,
  case when $10 then key end as key, case when $10 then value end as value, case when $10 then headers end as headers,
  case when $10 then recorded_at end as recorded_at
from consumer_parked
where ($1::text is null or consumer_group = $1)
  and ($2::uuid[] is null or event_id = any($2))
  and ($3::text is null or projection is null or projection = $3)
  and ($4::text is null or event_type = $4)
  and ($5::text is null or topic = $5)
  and ($6::bytea is null or key = $6)
  and ($7::text is null or position($7 in error) > 0)
  and ($8 or discarded_at is null)
order by parked_at desc, topic, partition, "offset"
limit $9
