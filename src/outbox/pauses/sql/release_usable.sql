-- Lets the keys of some shards go that wait for topics which can be written to, as far as the owner of these shards
-- knows. $1 text[]: topics. $2 smallint[]: shards. Leaves keys that a lane is working on for the next time.
update outbox_held_keys set release_at = now()
where first_id in (
  select first_id from outbox_held_keys
  where reason in ('denied', 'partition', 'no-topic') and topic = any($1) and shard = any($2) and released_to is null and release_at > now()
  for no key update skip locked
)
