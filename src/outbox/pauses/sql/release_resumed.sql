-- Lets the keys go that wait for a topic which is not paused any more. A lane that has not heard of the end of a pause
-- may hold a key again, so this runs again and again. Keys that a lane is working on are left for the next time, rather
-- than waited for.
update outbox_held_keys set release_at = now()
where first_id in (
  select first_id from outbox_held_keys
  where reason = 'paused' and topic is not null and release_at is null and topic not in (select topic from outbox_pauses)
  for no key update skip locked
)
