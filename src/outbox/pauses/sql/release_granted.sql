-- Lets the keys go that wait for a topic: for a grant, for one of its partitions, or to be made. $1 text[]: topics that
-- can be written to. Like release_resumed.sql it runs again and again, and leaves keys that a lane is working on for
-- the next time.
update outbox_held_keys set release_at = now()
where first_id in (
  select first_id from outbox_held_keys
  where reason in ('denied', 'partition', 'no-topic') and topic = any($1) and released_to is null and release_at > now()
  for no key update skip locked
)
