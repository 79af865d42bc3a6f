-- Gives parked events up; the rows stay as the record of that. One that waits to be folded again is given up, too. $1
-- text: group; null: all. $2 uuid[]: event ids; null: any. $3 text: projection; an event of all projections is of each.
-- $4 text: event type. $5 text: topic. $6 bytea: key. $7 text: part of the reason. Null is any. Returns their ids;
-- running it again returns none.
update consumer_parked set discarded_at = now(), release_asked_at = null
where ($1::text is null or consumer_group = $1)
  and ($2::uuid[] is null or event_id = any($2))
  and ($3::text is null or projection is null or projection = $3)
  and ($4::text is null or event_type = $4)
  and ($5::text is null or topic = $5)
  and ($6::bytea is null or key = $6)
  and ($7::text is null or position($7 in error) > 0)
  and discarded_at is null
returning event_id
