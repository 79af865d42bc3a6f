-- Decides about parked events: has them folded once more by the running consumer, or gives them up for good. One array
-- element per event: $1 text[] groups, $2 uuid[] event ids, $3 text[] projections. $4 text: release or discard. What
-- was given up stays so; what is on its way can still be given up. The rows stay as the record of it. Returns the ids
-- of those that changed; running it again returns none.
update consumer_parked k set
  release_asked_at = case when $4 = 'release' then now() end,
  discarded_at = case when $4 = 'discard' then now() end
from unnest($1::text[], $2::uuid[], $3::text[]) as chosen (consumer_group, event_id, projection)
where k.consumer_group = chosen.consumer_group and k.event_id = chosen.event_id
  and k.projection is not distinct from chosen.projection
  and k.discarded_at is null and ($4 = 'discard' or k.release_asked_at is null)
returning k.event_id
